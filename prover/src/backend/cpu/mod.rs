//! stub
/// x
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;
/// x
pub struct CpuKey;
