//! Without the stand-in: a driver that is not there is a typed error, not a panic.

use lamina_kernels::{Device, Error};

#[test]
fn a_missing_driver_is_a_typed_error() {
    match Device::open(0) {
        Ok(device) => assert!(!device.name().starts_with("emulation"), "{}", device.name()),
        Err(error) => {
            let expected =
                matches!(error, Error::NoDriver | Error::NoDevice { .. } | Error::OldDriver { .. });
            assert!(expected, "{error}");
        }
    }
}
