// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is executed is the descriptor: masks, parts of a grid, clusters, releases.

use std::time::{SystemTime, UNIX_EPOCH};

use cudarc::driver::sys::{self, CUresult};
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Descriptor, Kind, Words, fields as f};
use simgpu::config::Options;

use crate::cuda::{NULL, Parameter, Program, get, ok, read, stream, synchronize, words};
use crate::hook;
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("masked", masked),
    ("parts", parts),
    ("stamped", stamped),
    ("clustered", clustered),
    ("hanging", hanging),
    ("cooperative", cooperative),
    ("cooperative_clusters", cooperative_clusters),
    ("crowded", crowded),
];

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "a_mask_confines_blocks_and_leaves_sms_their_numbers",
        || {
            Simulation::new(&options()).run("masked");
        },
    ),
    (
        "the_end_is_obeyed_and_the_drivers_launch_starts_at_block_0",
        || {
            Simulation::new(&options()).run("parts");
        },
    ),
    ("release_semaphores_write_stamps_of_the_wall_clock", || {
        Simulation::new(&options()).run("stamped");
    }),
    ("clusters_stay_inside_a_gpc", || {
        Simulation::new(&options_with_gpcs()).run("clustered");
    }),
    ("all_blocks_of_a_cooperative_grid_meet", || {
        Simulation::new(&options()).run("cooperative");
    }),
    ("all_clusters_of_a_cooperative_grid_meet", || {
        Simulation::new(&options_with_gpcs()).run("cooperative_clusters");
    }),
    (
        "a_cooperative_grid_that_its_mask_has_no_room_for_hangs",
        || {
            let simulation = Simulation::new(&options());
            simulation.run("crowded");
            simulation.wait_until(|gpu| gpu.kernels_pending == 0 && gpu.processes.is_empty());
        },
    ),
    (
        "an_impossible_launch_hangs_and_the_rest_of_the_gpu_goes_on",
        || {
            let simulation = Simulation::new(&options());
            simulation.run("hanging");
            // The dead leave nothing behind.
            simulation.wait_until(|gpu| gpu.kernels_pending == 0 && gpu.processes.is_empty());
        },
    ),
];

/// GPCs of 4, 4 and 1 TPCs: at bits 0 to 3; 9 to 12; 75.
fn options_with_gpcs() -> Options {
    Options {
        gpcs: Some("4,4+1".parse().expect("a layout")),
        tpcs: Some(9),
        ..options()
    }
}

/// Allows only these TPCs.
fn allow(words: &mut Words, tpcs: TpcMask) {
    f::TPC_DISABLE_MASK_VALID.set(words, 1);
    for (i, word) in (0..).zip(tpcs.disable_words()) {
        f::TPC_DISABLE_MASK.at(i).set(words, word.into());
    }
}

/// Launches `mark` and gives how often each block ran and the SMs that were seen.
fn mark(program: &Program, grid: [u32; 3], turns: u32) -> (Vec<u32>, Vec<u32>) {
    let blocks = grid.iter().product::<u32>() as usize;
    let (counts, sms) = (words(blocks), words(blocks));
    let parameters = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(turns),
    ];
    program.launch("mark", grid, 32, NULL, &parameters);
    synchronize();
    (read(counts, blocks), read(sms, blocks))
}

fn distinct(mut values: Vec<u32>) -> Vec<u32> {
    values.sort_unstable();
    values.dedup();
    values
}

fn masked() {
    let program = Program::new();
    hook::subscribe();
    let (counts, sms) = mark(&program, [64, 1, 1], 100);
    assert_eq!(counts, vec![1; 64]);
    assert_eq!(distinct(sms), (0..8).collect::<Vec<u32>>());
    // TPCs 1 and 3 of the four, which are in one GPC.
    hook::edit(|words| allow(words, TpcMask::single(1) | TpcMask::single(3)));
    let (counts, sms) = mark(&program, [64, 1, 1], 100);
    assert_eq!(counts, vec![1; 64]);
    assert_eq!(distinct(sms), [2, 3, 6, 7]);
    // Without the bit that makes it valid, a mask is nothing.
    hook::edit(|words| {
        allow(words, TpcMask::single(1));
        f::TPC_DISABLE_MASK_VALID.set(words, 0);
    });
    let (_, sms) = mark(&program, [64, 1, 1], 100);
    assert_eq!(distinct(sms).len(), 8);
}

fn parts() {
    let program = Program::new();
    hook::subscribe();
    hook::edit(|words| {
        f::GRID_WIDTH_RESUME.set(words, 3);
        f::GRID_WIDTH.set(words, 7);
    });
    let (counts, _) = mark(&program, [10, 1, 1], 0);
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    hook::edit(|words| f::GRID_HEIGHT.set(words, 2));
    let (counts, _) = mark(&program, [3, 4, 1], 0);
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    // NULL runs nothing, and the stream goes on.
    hook::edit(|words| f::QMD_TYPE.set(words, 1));
    let (counts, _) = mark(&program, [4, 1, 1], 0);
    assert_eq!(counts, [0; 4]);
}

/// Nanoseconds since 1970.
fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970");
    u64::try_from(now.as_nanos()).expect("a time before 2554")
}

fn stamped() {
    let program = Program::new();
    hook::subscribe();
    // Four stamps of four words, in this process's own memory at its own address.
    let mut memory = vec![0_u64; 8];
    let address = memory.as_mut_ptr();
    // SAFETY: the memory outlives the registration.
    ok(unsafe { sys::cuMemHostRegister_v2(address.cast(), 64, 2) });
    let stamps = address.expose_provenance() as u64;
    let mut number = 0;
    hook::edit(move |words| {
        for slot in [1, 2] {
            f::RELEASE_ENABLE.at(slot).set(words, 1);
            f::RELEASE_STRUCTURE_SIZE.at(slot).set(words, 0);
            f::RELEASE_SEMAPHORE_ADDR
                .at(slot)
                .set(words, stamps + 16 * number);
            f::RELEASE_SEMAPHORE_PAYLOAD
                .at(slot)
                .set(words, 100 + number);
            number += 1;
        }
    });
    let before = now_ns();
    let (counts, sms) = (words(4), words(4));
    let parameters = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(50),
    ];
    for _ in 0..2 {
        program.launch("mark", [4, 1, 1], 32, NULL, &parameters);
    }
    synchronize();
    let after = now_ns();
    // SAFETY: written by another process; nobody writes any more.
    let stamp = |i: usize| unsafe { address.add(i).read_volatile() };
    for i in 0..4 {
        assert_eq!(stamp(2 * i), 100 + i as u64);
        let at = stamp(2 * i + 1);
        assert!((before..=after).contains(&at), "{before} {at} {after}");
    }
    assert_eq!(
        stamp(1),
        stamp(3),
        "two slots of one descriptor complete together"
    );
    // 50 turns of four instructions at 1 MHz are 200 us at the very least.
    assert!(
        stamp(5) - stamp(1) >= 150_000,
        "{} to {}",
        stamp(1),
        stamp(5)
    );
    // SAFETY: registered above.
    ok(unsafe { sys::cuMemHostUnregister(address.cast()) });
    drop(memory);
}

/// Launches a kernel of one parameter, an address, with blocks of 1024 threads in clusters.
fn launch_in_clusters(
    program: &Program,
    name: &str,
    blocks: u32,
    size: u32,
    cooperative: bool,
    out: u64,
) -> CUresult {
    // SAFETY: all zeroes are an attribute that is ignored.
    let mut attributes: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
    attributes[0].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attributes[0].value.clusterDim.x = size;
    attributes[0].value.clusterDim.y = 1;
    attributes[0].value.clusterDim.z = 1;
    attributes[1].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attributes[1].value.cooperative = cooperative.into();
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1024,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: NULL,
        attrs: attributes.as_mut_ptr(),
        numAttrs: 2,
    };
    let out = Parameter::Address(out);
    let mut parameters = [out.pointer()];
    let function = program.function(name);
    // SAFETY: the configuration, its attributes and the parameter live through the call.
    unsafe {
        sys::cuLaunchKernelEx(
            &raw const config,
            function,
            parameters.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

/// Launches `clusters` with clusters of so many blocks.
fn launch_clusters(program: &Program, blocks: u32, size: u32, out: u64) -> CUresult {
    launch_in_clusters(program, "clusters", blocks, size, false, out)
}

/// On the board of `options_with_gpcs`.
fn clustered() {
    let program = Program::new();
    hook::subscribe();
    let out = words(32);
    // The driver keeps clusters that are larger than a TPC may hold away from lone TPCs.
    for (size, masked) in [(1, false), (2, false), (4, true), (8, true)] {
        hook::edit(move |words| {
            let mask = Descriptor::new(&*words).expect("a descriptor").allowed();
            assert_eq!(mask != TpcMask::ALL, masked, "{size}");
            assert!((0..72).all(|bit| mask.contains(bit)));
            assert!((72..128).all(|bit| mask.contains(bit) != masked));
        });
        ok(launch_clusters(&program, 8, size, out));
    }
    hook::leave_alone();
    // Eight blocks take every SM of a GPC.
    ok(launch_clusters(&program, 32, 8, out));
    synchronize();
    let expected: Vec<u32> = (0..32).map(|i| (8 << 16) | (i % 8)).collect();
    assert_eq!(read(out, 32), expected);
    assert_eq!(
        launch_clusters(&program, 32, 16, out),
        CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE
    );
    // The lone TPC is a GPC of its own, with an SM for each of two blocks.
    hook::edit(|words| allow(words, TpcMask::single(75)));
    ok(launch_clusters(&program, 8, 2, out));
    synchronize();
    // Two TPCs of two GPCs have an SM for each of four blocks, but not for a cluster of them.
    hook::edit(|words| allow(words, TpcMask::single(0) | TpcMask::single(9)));
    ok(launch_clusters(&program, 8, 4, out));
    hook::leave_alone();
    // SAFETY: asks for the state of a stream.
    let query = || unsafe { sys::cuStreamQuery(NULL) };
    let other = stream(0);
    let more = [Parameter::Address(out), Parameter::Word(5)];
    program.launch("fill", [1, 1, 1], 32, other, &more);
    // SAFETY: the stream lives.
    ok(unsafe { sys::cuStreamSynchronize(other) });
    assert_eq!(query(), CUresult::CUDA_ERROR_NOT_READY);
}

fn hanging() {
    let program = Program::new();
    hook::subscribe();
    let (stuck, free) = (stream(0), stream(0));
    let out = words(64);
    synchronize();
    // Bit 60 is no TPC of this board.
    hook::edit(|words| allow(words, TpcMask::single(60)));
    let parameters = [Parameter::Address(out), Parameter::Word(1)];
    program.launch("fill", [1, 1, 1], 32, stuck, &parameters);
    hook::leave_alone();
    for value in 2..20 {
        let parameters = [Parameter::Address(out), Parameter::Word(value)];
        program.launch("fill", [2, 1, 1], 32, free, &parameters);
    }
    // SAFETY: the streams live; events are made, used and left behind.
    unsafe {
        ok(sys::cuStreamSynchronize(free));
        assert_eq!(sys::cuStreamQuery(stuck), CUresult::CUDA_ERROR_NOT_READY);
        let event = get(|out| sys::cuEventCreate(out, 0));
        ok(sys::cuEventRecord(event, stuck));
        assert_eq!(sys::cuEventQuery(event), CUresult::CUDA_ERROR_NOT_READY);
    }
    // The process ends here, with the launch still hanging.
    std::process::exit(0);
}

/// Launches `meet` with blocks of which two fit on an SM: they meet only if all of them are resident
/// at once.
fn launch_meeting(program: &Program, grid: [u32; 3], stream: sys::CUstream, out: u64) -> CUresult {
    let [x, y, z] = grid;
    let counter = Parameter::Address(out);
    let mut parameters = [counter.pointer()];
    let function = program.function("meet");
    let parameters = parameters.as_mut_ptr();
    // SAFETY: the parameter lives through the call.
    unsafe { sys::cuLaunchCooperativeKernel(function, x, y, z, 1024, 1, 1, 0, stream, parameters) }
}

fn cooperative() {
    let program = Program::new();
    hook::subscribe();
    let counter = words(2);
    // The whole GPU of 8 SMs, while others leave no room for it at first.
    let other = stream(0);
    let (counts, sms) = (words(40), words(40));
    let slow = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(20),
    ];
    program.launch("mark", [40, 1, 1], 1024, other, &slow);
    hook::edit(|words| {
        let descriptor = Descriptor::new(words).expect("a descriptor");
        assert_eq!(descriptor.kind(), Kind::Cooperative);
        assert_eq!(
            (descriptor.grid(), descriptor.blocks()),
            ([1; 3], [16, 1, 1])
        );
    });
    ok(launch_meeting(&program, [16, 1, 1], NULL, counter));
    synchronize();
    assert_eq!(read(counter, 1), [16 * 1024]);
    assert_eq!(read(counts, 40), vec![1; 40]);
    // More can never be resident, as the driver knows.
    assert_eq!(
        launch_meeting(&program, [17, 1, 1], NULL, counter),
        CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
    );
    // Half the GPU has room for half as much.
    hook::edit(|words| allow(words, TpcMask::single(1) | TpcMask::single(3)));
    ok(launch_meeting(&program, [8, 1, 1], NULL, counter + 4));
    synchronize();
    assert_eq!(read(counter, 2), [16 * 1024, 8 * 1024]);
}

fn cooperative_clusters() {
    let program = Program::new();
    hook::subscribe();
    hook::edit(|words| {
        let descriptor = Descriptor::new(words).expect("a descriptor");
        assert_eq!(descriptor.kind(), Kind::CooperativeClusters);
        assert_eq!(
            (descriptor.cluster(), descriptor.group()),
            ([4, 1, 1], [4, 1, 1])
        );
        assert_eq!(descriptor.blocks(), [16, 1, 1]);
    });
    let counter = words(1);
    ok(launch_in_clusters(&program, "meet", 16, 4, true, counter));
    synchronize();
    assert_eq!(read(counter, 1), [16 * 1024]);
}

fn crowded() {
    let program = Program::new();
    hook::subscribe();
    let (stuck, free) = (stream(0), stream(0));
    let (counter, out) = (words(1), words(64));
    synchronize();
    // Two TPCs have room for eight blocks, not for nine.
    hook::edit(|words| allow(words, TpcMask::single(1) | TpcMask::single(3)));
    ok(launch_meeting(&program, [9, 1, 1], stuck, counter));
    hook::leave_alone();
    for value in 2..20 {
        let parameters = [Parameter::Address(out), Parameter::Word(value)];
        program.launch("fill", [2, 1, 1], 32, free, &parameters);
    }
    // SAFETY: the streams live.
    unsafe {
        ok(sys::cuStreamSynchronize(free));
        assert_eq!(sys::cuStreamQuery(stuck), CUresult::CUDA_ERROR_NOT_READY);
        // None of its blocks has started.
        let mut count = [1_u32];
        let (place, other) = (count.as_mut_ptr().cast(), free);
        ok(sys::cuMemcpyDtoHAsync_v2(place, counter, 4, other));
        ok(sys::cuStreamSynchronize(free));
        assert_eq!(count, [0]);
    }
    // The process ends here, with the launch still hanging.
    std::process::exit(0);
}
