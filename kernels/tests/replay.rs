//! What measurements of the host rest on: a stand-in that answers from a record, and calls that take as long as the model says.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use lamina_circuits::Fr;
use lamina_kernels::{Device, Error, Join, Matrix};
use lamina_kernels_emu::{Mode, Tape, answers, heal, install, tape};

/// The stand-in is one for all tests of a process.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    install(Mode::Host);
    turn
}

fn sums(device: &Device, first: u64, rows: usize) -> Result<Vec<Fr>, Error> {
    let column: Vec<Fr> = (first..).take(rows).map(Fr::from).collect();
    device.scan(Join::Sum, &Matrix::from_columns(device, &[&column])?)?.column(device, 0)
}

#[test]
fn what_is_replayed_is_what_was_recorded() {
    let _turn = turn();
    {
        let device = Device::open(0).unwrap();
        let before = sums(&device, 1, 8).unwrap();
        tape(Tape::Record);
        let (small, large) = (sums(&device, 5, 8).unwrap(), sums(&device, 7, 3000).unwrap());
        assert_eq!(answers(), 2);
        tape(Tape::Off);
        assert_eq!(sums(&device, 1, 8).unwrap(), before, "as usual");
        // Whatever is asked for, the record answers, and nothing is computed; what is launched is counted all the same.
        for _ in 0..2 {
            tape(Tape::Replay);
            let counted = device.work();
            assert_eq!(sums(&device, 100, 8).unwrap(), small);
            assert_eq!(sums(&device, 200, 3000).unwrap(), large);
            assert_eq!(device.work().since(&counted).launches, 6);
            assert_eq!(answers(), 0);
        }
        // Beyond the record, and where another size was recorded, there is no answer.
        assert!(matches!(sums(&device, 1, 8), Err(Error::Driver { .. })));
    }
    heal();
    {
        let device = Device::open(0).unwrap();
        tape(Tape::Record);
        sums(&device, 5, 8).unwrap();
        tape(Tape::Replay);
        assert!(matches!(sums(&device, 5, 9), Err(Error::Driver { .. })));
    }
    heal();
}

#[test]
fn paced_calls_take_as_long_as_the_model_says() {
    let _turn = turn();
    let device = Device::open(0).unwrap();
    device.pace(true);
    let (before, started) = (device.work(), Instant::now());
    for _ in 0..20 {
        sums(&device, 1, 100).unwrap();
    }
    let (elapsed, work) = (started.elapsed(), device.work().since(&before));
    // Launches and copies take the host some microseconds, and the host waits for the device.
    assert!(work.modelled_ns > 20 * 30_000, "{work:?}");
    assert!(elapsed.as_nanos() as u64 >= work.modelled_ns, "{elapsed:?}, {work:?}");
    device.pace(false);
}
