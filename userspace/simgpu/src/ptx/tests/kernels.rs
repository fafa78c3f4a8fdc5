// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whole kernels, from their files, against the same computation in Rust.

use super::{BASE, Flat, Launch, load};

const MATMUL: &str = include_str!("../../../tests/kernels/matmul.ptx");
const REDUCE: &str = include_str!("../../../tests/kernels/reduce.ptx");
const MANDELBROT: &str = include_str!("../../../tests/kernels/mandelbrot.ptx");

#[test]
fn a_tiled_product_of_matrices_is_that_of_rust() {
    let n = 48;
    let (_, image) = load(MATMUL);
    let kernel = &image.kernels["matmul"];
    assert_eq!(kernel.static_shared_bytes, 2048);
    assert_eq!(kernel.max_threads, 256);
    let bytes = 4 * (n * n) as u64;
    let memory = Flat::new(3 * n * n * 4);
    let value = |i: usize| (i * 7919 % 1000) as f32 / 250.0 - 2.0;
    for i in 0..2 * n * n {
        memory.put_u32(i, value(i).to_bits());
    }
    Launch::new(kernel, [3, 3, 1], [16, 16, 1])
        .u64(BASE)
        .u64(BASE + bytes)
        .u64(BASE + 2 * bytes)
        .u32(48)
        .run(&memory)
        .unwrap();
    for row in 0..n {
        for column in 0..n {
            let expected = (0..n).fold(0.0_f32, |sum, k| {
                value(row * n + k).mul_add(value(n * n + k * n + column), sum)
            });
            let found = memory.f32(2 * n * n + row * n + column);
            assert_eq!(found.to_bits(), expected.to_bits(), "{row} {column}");
        }
    }
}

#[test]
fn a_reduction_adds_every_word_once() {
    let n = 5000;
    let (_, image) = load(REDUCE);
    let kernel = &image.kernels["reduce"];
    // The dynamic array follows the static one.
    assert_eq!(kernel.static_shared_bytes, 128);
    let buckets = 37;
    let memory = Flat::new((n + 1 + buckets) * 4);
    let value = |i: usize| u32::try_from(i * 2_654_435_761 % 100_000).unwrap();
    for i in 0..n {
        memory.put_u32(i, value(i));
    }
    let behind = BASE + 4 * n as u64;
    let mut launch = Launch::new(kernel, [6, 1, 1], [160, 1, 1])
        .u64(BASE)
        .u64(behind)
        .u64(behind + 4)
        .u32(5000)
        .u32(37);
    launch.dynamic_shared_bytes = 4 * 37;
    launch.run(&memory).unwrap();
    assert_eq!(memory.u32(n), (0..n).map(value).sum::<u32>());
    for bucket in 0..buckets {
        let expected = (0..n).filter(|i| value(*i) as usize % buckets == bucket);
        assert_eq!(
            memory.u32(n + 1 + bucket) as usize,
            expected.count(),
            "{bucket}"
        );
    }
}

#[test]
fn lanes_that_iterate_for_different_times_are_each_exact() {
    let (width, height, limit) = (150_u32, 20_u32, 300_u32);
    let (_, image) = load(MANDELBROT);
    let kernel = &image.kernels["mandelbrot"];
    assert_eq!(kernel.required_block, Some([64, 1, 1]));
    let memory = Flat::new((width * height * 4) as usize);
    Launch::new(kernel, [3, height, 1], [64, 1, 1])
        .u64(BASE)
        .u32(width)
        .u32(height)
        .u32(limit)
        .run(&memory)
        .unwrap();
    for y in 0..height {
        for x in 0..width {
            let cx = (f64::from(x) / f64::from(width)).mul_add(3.0, -2.0);
            let cy = (f64::from(y) / f64::from(height)).mul_add(2.0, -1.0);
            let (mut a, mut b, mut steps) = (0.0_f64, 0.0_f64, 0);
            while steps < limit && a * a + b * b < 4.0 {
                (a, b) = (a * a - b * b + cx, a * b + a * b + cy);
                steps += 1;
            }
            let found = memory.u32((y * width + x) as usize);
            assert_eq!(found, steps, "{x} {y}");
        }
    }
}
