//! Memory that is kept for later buffers.

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::{Cell, Column, Error, Matrix, Operation};

use crate::common::{elements, emulation, keeping_device, matrix};

/// Allocations so far; the stand-in counts them.
fn allocations() -> u64 {
    lamina_kernels_emu::counts().1
}

#[test]
fn what_buffers_leave_behind_is_taken_again() {
    let device = keeping_device();
    let double = |value: u64| {
        let three = matrix(&device, &[vec![Fr::from(value); 1000]]);
        device.elementwise(Operation::Add, &three, &three).unwrap().column(&device, 0).unwrap()
    };
    assert_eq!(double(3), [Fr::from(6); 1000]);
    let (calls, before) = (device.work().calls, emulation().map(|_| allocations()));
    assert_eq!(double(4), [Fr::from(8); 1000]);
    // One copy there, one kernel, one copy back, whose end is marked, one wait.
    assert_eq!(device.work().calls - calls, 5);
    assert_eq!(emulation().map(|_| allocations()), before, "memory was allocated that was there");
}

/// The stand-in aborts where memory is freed with something in it, and what has been wiped is freed as it is.
#[test]
fn what_is_kept_is_wiped_in_one_launch_to_the_last_byte() {
    let device = keeping_device();
    fn some<T: Cell>(device: &lamina_kernels::Device, cell: T, sizes: &[usize]) {
        for size in sizes {
            drop(Matrix::from_columns(device, &[&vec![cell; *size][..]]).unwrap());
        }
    }
    // Pieces of a megabyte, their rest, and what is no multiple of 16 bytes.
    some(&device, -1i8, &[1, 15, 16, 17, 255, (1 << 20) - 1, 1 << 20, (2 << 20) + 33]);
    some(&device, -1i16, &[7, 4099]);
    some(&device, -Fr::ONE, &[1, 33, 40_000]);
    let held = matrix(&device, &[vec![Fr::from(5); 33]]);
    let before = device.work();
    device.wipe().unwrap();
    let work = device.work().since(&before);
    assert_eq!(work.launches, 1);
    assert!(work.kernel_bytes > 5 << 20, "{work:?}");
    device.wipe_host();
    device.keep_at_most(0);
    assert_eq!(held.column(&device, 0).unwrap(), [Fr::from(5); 33], "what a buffer holds is not wiped");
    // Nothing is left to wipe but the list of what was.
    device.keep_at_most(usize::MAX);
    device.wipe().unwrap();
}

/// What a failure leaves under way lies in the host's memory: it is waited for, and overwritten with the rest.
#[test]
fn what_is_under_way_is_waited_for_before_it_is_wiped() {
    let device = keeping_device();
    let column = elements::<Fr>(500, 1);
    let calls = |under_way: bool| {
        let held = matrix(&device, std::slice::from_ref(&column));
        if !under_way {
            device.synchronize().unwrap();
        }
        let before = device.work().calls;
        device.wipe().unwrap();
        let calls = device.work().calls - before;
        drop(held);
        device.synchronize().unwrap();
        calls
    };
    // The first finds memory to allocate.
    calls(true);
    assert_eq!(calls(true), calls(false) + 1);
    device.wipe_host();
}

#[test]
fn wiped_memory_is_taken_again() {
    let device = keeping_device();
    for round in 0..3u64 {
        let cells = elements::<Fr>(500, round as u8);
        let column = Column::new(&device, 512, &cells, &[Fr::from(round); 3]).unwrap();
        let back = device.expand(&[&column], 512).unwrap().column(&device, 0).unwrap();
        assert_eq!(back[..500], cells);
        assert_eq!(back[509..], [Fr::from(round); 3]);
        drop(column);
        device.wipe().unwrap();
        device.wipe_host();
    }
}

#[test]
fn a_device_that_is_full_of_what_is_kept_is_not_full() {
    if emulation().is_none() {
        return; // not on a device that others may use too
    }
    let device = keeping_device();
    let other = device.fork().unwrap();
    lamina_kernels_emu::inject(lamina_kernels_emu::Fault::Memory { bytes: 64 << 20 });
    let (free, _) = device.memory_bytes().unwrap();
    let third = vec![1i8; free / 3];
    for (stream, more) in [(&device, 0), (&other, 1), (&device, 2)] {
        // Sizes that differ: none serves for another.
        let two = [&third[more..], &third[more..]];
        drop(Matrix::from_columns(stream, &two).unwrap());
        // What is kept counts as free.
        assert_eq!(stream.memory_bytes().unwrap().0, free);
    }
    let error = Matrix::from_columns(&device, &[&third[..]; 4]).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    assert_eq!(device.memory_bytes().unwrap().0, free);
}
