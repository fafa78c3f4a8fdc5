// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Streams, events, host functions, contexts and threads.

use std::ffi::c_void;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUresult, CUstream};

use crate::cuda::{NULL, Parameter, Program, get, load, ok, read, stream, synchronize, words};
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("ordered", ordered),
    ("host_functions", host_functions),
    ("many_launches", many_launches),
    ("threads", threads),
    ("contexts", contexts),
    ("libraries", libraries),
    ("injected", injected),
];

pub(crate) const TESTS: &[crate::Test] = &[
    ("the_legacy_stream_joins_blocking_streams_only", || {
        Simulation::new(&options()).run("ordered");
    }),
    ("host_functions_run_in_stream_order", || {
        Simulation::new(&options()).run("host_functions");
    }),
    ("a_launch_waits_when_the_stream_is_full", || {
        Simulation::new(&options()).run("many_launches");
    }),
    ("threads_launch_at_once_in_streams_of_their_own", || {
        Simulation::new(&options()).run("threads");
    }),
    ("contexts_come_and_go", || {
        let simulation = Simulation::new(&options());
        simulation.run("contexts");
        assert_eq!(simulation.stop().gpus[0].memory_used_bytes, 0);
    }),
    ("kernels_of_libraries_can_be_launched", || {
        Simulation::new(&options()).run("libraries");
    }),
    ("an_injected_library_is_called_once", an_injected_library),
];

/// A kernel that waits for a word of this process.
struct Gate {
    word: *mut u32,
}

impl Gate {
    fn new() -> Self {
        // SAFETY: pinned memory for one word, never freed.
        unsafe {
            let word: *mut u32 = get(|out| sys::cuMemHostAlloc(out, 4, 2)).cast();
            word.write_volatile(0);
            Self { word }
        }
    }

    fn close(&self, program: &Program, stream: CUstream) {
        let address = self.word.expose_provenance() as u64;
        program.launch(
            "hold",
            [1, 1, 1],
            32,
            stream,
            &[Parameter::Address(address)],
        );
    }

    fn open(&self) {
        // SAFETY: the word lives.
        unsafe { self.word.write_volatile(1) };
    }
}

fn ordered() {
    let program = Program::new();
    // SAFETY: streams and events are used while they live.
    unsafe {
        let blocking = get(|out| sys::cuStreamCreate(out, 0));
        let free = stream(0);
        let out = words(64);
        synchronize();
        let fill = |stream, value| {
            let parameters = [Parameter::Address(out), Parameter::Word(value)];
            program.launch("fill", [1, 1, 1], 32, stream, &parameters);
        };
        let not_ready = |stream| sys::cuStreamQuery(stream) == CUresult::CUDA_ERROR_NOT_READY;
        // A blocking stream holds up the legacy stream, and that another blocking stream.
        let other = get(|out| sys::cuStreamCreate(out, 0));
        let gate = Gate::new();
        gate.close(&program, blocking);
        fill(NULL, 1);
        fill(other, 2);
        fill(free, 3);
        ok(sys::cuStreamSynchronize(free));
        assert!(not_ready(blocking) && not_ready(NULL) && not_ready(other));
        gate.open();
        ok(sys::cuStreamSynchronize(other));
        assert_eq!(read(out, 1), [2]);
        // Events make any stream wait for any other.
        let gate = Gate::new();
        let event = get(|out| sys::cuEventCreate(out, 2));
        ok(sys::cuStreamWaitEvent(free, event, 0));
        gate.close(&program, blocking);
        ok(sys::cuEventRecord(event, blocking));
        ok(sys::cuStreamWaitEvent(free, event, 0));
        fill(free, 4);
        let last = get(|out| sys::cuEventCreate(out, 0));
        ok(sys::cuEventRecord(last, free));
        assert_eq!(sys::cuEventQuery(event), CUresult::CUDA_ERROR_NOT_READY);
        assert!(not_ready(free));
        gate.open();
        ok(sys::cuEventSynchronize(last));
        ok(sys::cuEventQuery(event));
        assert_eq!(read(out, 1), [4]);
        // An event without timing has no time.
        let elapsed = sys::cuEventElapsedTime_v2(&mut 0.0, event, last);
        assert_eq!(elapsed, CUresult::CUDA_ERROR_INVALID_HANDLE);
        // A stream that is destroyed finishes what it has.
        let gate = Gate::new();
        gate.close(&program, other);
        fill(other, 5);
        ok(sys::cuStreamDestroy_v2(other));
        assert_eq!(
            sys::cuStreamQuery(other),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        let next = get(|out| sys::cuStreamCreate(out, 1));
        fill(next, 6);
        ok(sys::cuStreamSynchronize(next));
        assert_eq!(read_in(free, out), 6);
        gate.open();
        while read_in(free, out) != 5 {}
    }
}

/// Reads one word in a stream.
fn read_in(stream: CUstream, address: u64) -> u32 {
    let mut word = 0_u32;
    // SAFETY: the word has room for four bytes; a copy to pageable memory waits for its end.
    ok(unsafe { sys::cuMemcpyDtoHAsync_v2((&raw mut word).cast(), address, 4, stream) });
    word
}

static CALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn called(data: *mut c_void) {
    // Each call finds the number that the one before it left.
    let number = u32::try_from(data.addr()).expect("a number");
    assert_eq!(CALLED.fetch_add(1, Ordering::SeqCst), number);
}

fn host_functions() {
    let program = Program::new();
    let work = stream(0);
    let gate = Gate::new();
    gate.close(&program, work);
    for number in 0..10 {
        let data = std::ptr::without_provenance_mut(number);
        // SAFETY: the function is called with a number.
        ok(unsafe { sys::cuLaunchHostFunc(work, Some(called), data) });
    }
    assert_eq!(CALLED.load(Ordering::SeqCst), 0);
    gate.open();
    // SAFETY: the stream lives.
    ok(unsafe { sys::cuStreamSynchronize(work) });
    assert_eq!(CALLED.load(Ordering::SeqCst), 10);
}

fn many_launches() {
    /// Operations that fit into a stream, one of which is the gate's launch.
    const FIT: u32 = 1021;
    static LAUNCHED: AtomicU32 = AtomicU32::new(0);
    let program = Program::new();
    let work = stream(0);
    let gate = Gate::new();
    let out = words(64);
    synchronize();
    gate.close(&program, work);
    let word = gate.word.expose_provenance();
    let opener = std::thread::spawn(move || {
        while LAUNCHED.load(Ordering::SeqCst) < FIT {
            std::thread::yield_now();
        }
        // SAFETY: the word is pinned memory that is never freed.
        unsafe { std::ptr::with_exposed_provenance_mut::<u32>(word).write_volatile(1) };
    });
    for value in 0..3000 {
        let parameters = [Parameter::Address(out), Parameter::Word(value)];
        program.launch("fill", [1, 1, 1], 32, work, &parameters);
        let launched = LAUNCHED.fetch_add(1, Ordering::SeqCst) + 1;
        // SAFETY: the word lives.
        let is_open = unsafe { gate.word.read_volatile() } != 0;
        assert!(launched <= FIT || is_open, "launch {launched} did not wait");
    }
    opener.join().expect("the opener");
    synchronize();
    assert_eq!(read(out, 1), [2999]);
}

fn threads() {
    let program = Program::new();
    let context = program.context.addr();
    let function = program.function("fill").addr();
    let out = words(64 * 8);
    synchronize();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                scope.spawn(move || {
                    let context = std::ptr::with_exposed_provenance_mut(context);
                    let function = std::ptr::with_exposed_provenance_mut(function);
                    let own: CUstream = std::ptr::without_provenance_mut(2);
                    let place = Parameter::Address(out + 256 * u64::from(thread));
                    // SAFETY: the context and the function live; 2 is the thread's own stream.
                    unsafe {
                        ok(sys::cuCtxSetCurrent(context));
                        for value in 0..50 {
                            let value = Parameter::Word(1000 * thread + value);
                            let mut parameters = [place.pointer(), value.pointer()];
                            ok(sys::cuLaunchKernel(
                                function,
                                1,
                                1,
                                1,
                                32,
                                1,
                                1,
                                0,
                                own,
                                parameters.as_mut_ptr(),
                                std::ptr::null_mut(),
                            ));
                        }
                        ok(sys::cuStreamSynchronize(own));
                    }
                });
            }
        });
    }
    for thread in 0..8 {
        assert_eq!(read(out + 256 * u64::from(thread), 1), [1000 * thread + 49]);
    }
}

fn contexts() {
    let program = Program::new();
    let kept = words(8);
    // SAFETY: contexts, streams and memory are used while they live, or must be refused.
    unsafe {
        for _ in 0..70 {
            let context = get(|out| sys::cuCtxCreate_v4(out, std::ptr::null_mut(), 0, 0));
            assert_eq!(get(|out| sys::cuCtxGetCurrent(out)), context);
            let other = Program {
                context,
                module: load(crate::cuda::KERNELS),
            };
            let work = stream(0);
            let out = words(32);
            let parameters = [Parameter::Address(out), Parameter::Word(1)];
            other.launch("fill", [1, 1, 1], 32, work, &parameters);
            synchronize();
            assert_eq!(read(out, 2), [1, 2]);
            // A kernel of another context is no good here.
            let foreign = program.function("fill");
            let mut pointers = [parameters[0].pointer(), parameters[1].pointer()];
            let refused = sys::cuLaunchKernel(
                foreign,
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                NULL,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            );
            assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_HANDLE);
            ok(sys::cuCtxDestroy_v2(context));
            assert_eq!(get(|out| sys::cuCtxGetCurrent(out)), program.context);
            assert_eq!(
                sys::cuStreamQuery(work),
                CUresult::CUDA_ERROR_INVALID_HANDLE
            );
            let gone = sys::cuCtxSetCurrent(context);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        assert_eq!(read(kept, 8), [0; 8]);
        // The primary context ends with its last reference, or when it is reset.
        let (mut flags, mut active) = (0, 0);
        let mut state = || {
            ok(sys::cuDevicePrimaryCtxGetState(
                0,
                &raw mut flags,
                &raw mut active,
            ));
            active
        };
        assert_eq!(state(), 1);
        ok(sys::cuDevicePrimaryCtxReset_v2(0));
        assert_eq!(state(), 0);
        assert_eq!(
            sys::cuCtxSynchronize(),
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        let again = get(|out| sys::cuDevicePrimaryCtxRetain(out, 0));
        ok(sys::cuCtxSetCurrent(again));
        assert_eq!(read(words(4), 4), [0; 4]);
        ok(sys::cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(state(), 1);
        ok(sys::cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(state(), 0);
    }
}

fn libraries() {
    let program = Program::new();
    let text = std::ffi::CString::new(crate::cuda::KERNELS).expect("PTX");
    let none: *mut c_void = std::ptr::null_mut();
    // SAFETY: the library lives while its kernels are used.
    unsafe {
        let library = get(|out| {
            let code = text.as_ptr().cast();
            sys::cuLibraryLoadData(
                out,
                code,
                none.cast(),
                none.cast(),
                0,
                none.cast(),
                none.cast(),
                0,
            )
        });
        let kernel = get(|out| sys::cuLibraryGetKernel(out, library, c"fill".as_ptr()));
        let function = get(|out| sys::cuKernelGetFunction(out, kernel));
        let out = words(32);
        // A kernel's handle will do for a launch, and so will its function's.
        for (value, function) in [(1, function), (2, kernel.cast())] {
            let parameters = [Parameter::Address(out), Parameter::Word(value)];
            let mut pointers = [parameters[0].pointer(), parameters[1].pointer()];
            ok(sys::cuLaunchKernel(
                function,
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                NULL,
                pointers.as_mut_ptr(),
                none.cast(),
            ));
            assert_eq!(read(out, 1), [value]);
        }
        ok(sys::cuLibraryUnload(library));
    }
    assert!(!program.module.is_null());
}

/// Names the file in which the injected library leaves its mark.
const MARK_VARIABLE: &str = "SIMGPU_TEST_MARK";

fn an_injected_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("injected.rs");
    let library = folder.path().join("libinjected.so");
    let mark = folder.path().join("mark");
    let text = format!(
        r#"#[unsafe(no_mangle)]
        pub extern "C" fn InitializeInjection() -> i32 {{
            use std::io::Write;
            let path = std::env::var("{MARK_VARIABLE}").unwrap();
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).append(true).open(path).unwrap();
            file.write_all(b"here ").unwrap();
            0
        }}"#
    );
    std::fs::write(&source, text).expect("written");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.expect("a compiler").success());
    let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
    let simulation = Simulation::new(&options());
    let environment = [
        ("CUDA_INJECTION64_PATH", &path(&library)[..]),
        (MARK_VARIABLE, &path(&mark)),
    ];
    simulation.run_with("injected", &environment);
    assert_eq!(std::fs::read_to_string(&mark).expect("the mark"), "here ");
    // A library that is not there, or is none, is no reason to fail.
    for missing in [&path(&source)[..], "/nowhere/at/all.so", ""] {
        simulation.run_with("injected", &[("CUDA_INJECTION64_PATH", missing)]);
    }
}

fn injected() {
    for _ in 0..3 {
        // SAFETY: takes nothing.
        ok(unsafe { sys::cuInit(0) });
    }
    let out = words_of(&Program::new());
    assert_eq!(out, [3, 4]);
}

fn words_of(program: &Program) -> Vec<u32> {
    let out = words(32);
    let parameters = [Parameter::Address(out), Parameter::Word(3)];
    program.launch("fill", [1, 1, 1], 32, NULL, &parameters);
    read(out, 2)
}
