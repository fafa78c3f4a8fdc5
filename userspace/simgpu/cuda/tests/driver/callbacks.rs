// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who may subscribe, and what a subscriber sees.

use std::ffi::{CString, c_char, c_int, c_void};

use cudarc::driver::sys::{self, CUdriverProcAddressQueryResult as Query, CUresult};

use crate::cuda::{NULL, Parameter, Program, get, ok, read, synchronize, words};
use crate::hook::{self, Meddling, Seen};
use crate::simulation::{Simulation, options};

/// cuLaunchKernel's number.
const LAUNCH: c_int = 307;
/// cuLaunchKernel_ptsz's number.
const LAUNCH_PTSZ: c_int = 442;
/// cuCtxCreate_v4's number.
const CONTEXT_CREATE: c_int = 757;

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("subscribers", subscribers),
    ("watched", watched),
    ("meddled", meddled),
    ("creating", creating),
    ("addresses", addresses),
    ("forking", forking),
];

pub(crate) const TESTS: &[crate::Test] = &[
    ("there_is_one_subscriber_per_process", || {
        Simulation::new(&options()).run("subscribers");
    }),
    ("api_callbacks_come_in_order_with_their_arguments", || {
        Simulation::new(&options()).run("watched");
    }),
    ("a_subscriber_can_skip_a_call_and_change_its_result", || {
        Simulation::new(&options()).run("meddled");
    }),
    (
        "the_end_of_a_contexts_creation_tells_the_new_context",
        || {
            Simulation::new(&options()).run("creating");
        },
    ),
    ("functions_are_found_by_version_and_default_stream", || {
        Simulation::new(&options()).run("addresses");
    }),
    ("a_forked_child_has_no_driver", || {
        Simulation::new(&options()).run("forking");
    }),
];

fn subscribers() {
    // Before cuInit, as an injected library may do.
    let mut first = 0;
    let mut second = 0;
    assert_eq!(hook::subscribe_raw(&mut first), 0);
    assert_eq!(hook::subscribe_raw(&mut second), 210);
    assert_ne!(hook::enable(true, first + 1, 6, LAUNCH), 0);
    assert_ne!(hook::enable(true, first, 5, 1), 0);
    assert_eq!(hook::enable(true, first, 6, LAUNCH), 0);
    let program = Program::new();
    let out = words(32);
    let parameters = [Parameter::Address(out), Parameter::Word(1)];
    program.launch("fill", [1, 1, 1], 32, NULL, &parameters);
    assert_eq!(hook::take_seen().len(), 2);
    assert_eq!(hook::unsubscribe(first), 0);
    program.launch("fill", [1, 1, 1], 32, NULL, &parameters);
    assert_eq!(hook::take_seen(), []);
    assert_eq!(hook::subscribe_raw(&mut second), 0);
}

fn watched() {
    let program = Program::new();
    let handle = hook::subscribe();
    assert_eq!(hook::enable(true, handle, 6, LAUNCH), 0);
    // A descriptor comes between the beginning and the end of its launch.
    hook::edit(|_| assert_eq!(hook::take_seen().len(), 1));
    // CUDA calls inside a callback work, and are seen themselves.
    hook::call_inside(Some(synchronize));
    let out = words(64);
    let parameters = [Parameter::Address(out), Parameter::Word(5)];
    program.launch("fill", [2, 1, 1], 32, NULL, &parameters);
    hook::call_inside(None);
    let exit = hook::take_seen();
    let function = program.function("fill");
    let expected = Seen {
        id: LAUNCH,
        name: "cuLaunchKernel".to_owned(),
        is_exit: true,
        context: program.context.addr(),
        context_id: id_of(program.context),
        result: 0,
        // The function, then two numbers of four bytes each.
        arguments: [function.addr(), 2 | 1 << 32, 1 | 32 << 32],
    };
    assert_eq!(exit, [expected]);
    hook::leave_alone();
    assert_eq!(hook::enable(true, handle, 6, LAUNCH_PTSZ), 0);
    launch_per_thread(&program, out);
    let calls = hook::take_seen();
    let seen: Vec<_> = calls
        .iter()
        .map(|seen| (&seen.name[..], seen.is_exit))
        .collect();
    assert_eq!(
        seen,
        [
            ("cuLaunchKernel_ptsz", false),
            ("cuLaunchKernel_ptsz", true)
        ]
    );
    assert_eq!(hook::enable(false, handle, 6, LAUNCH), 0);
    program.launch("fill", [2, 1, 1], 32, NULL, &parameters);
    assert_eq!(hook::take_seen(), []);
}

/// A context's id.
fn id_of(context: sys::CUcontext) -> usize {
    // SAFETY: the context lives.
    let id = get(|out| unsafe { sys::cuCtxGetId(context, out) });
    usize::try_from(id).expect("an id")
}

fn meddled() {
    let program = Program::new();
    let handle = hook::subscribe();
    assert_eq!(hook::enable(true, handle, 6, LAUNCH), 0);
    let out = words(32);
    let launch = |value| {
        let parameters = [Parameter::Address(out), Parameter::Word(value)];
        let result = program.try_launch("fill", [1, 1, 1], 32, 0, NULL, &parameters);
        let seen = hook::take_seen();
        let results: Vec<_> = seen
            .iter()
            .map(|seen| (seen.is_exit, seen.result))
            .collect();
        assert_eq!(results[0], (false, 999));
        (result, results[1], hook::descriptors(), read(out, 1)[0])
    };
    let success = CUresult::CUDA_SUCCESS;
    assert_eq!(launch(1), (success, (true, 0), 1, 1));
    // A call that is skipped makes no descriptor and harms nothing.
    let refusal = CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    hook::meddle(Some(Meddling::Skip(refusal as u32)));
    assert_eq!(launch(2), (refusal, (true, refusal as u32), 1, 1));
    hook::meddle(None);
    assert_eq!(launch(3), (success, (true, 0), 2, 3));
    // A call whose result is changed at its end has happened all the same.
    let other = CUresult::CUDA_ERROR_INVALID_VALUE;
    hook::meddle(Some(Meddling::Change(other as u32)));
    assert_eq!(launch(4), (other, (true, 0), 3, 4));
}

fn creating() {
    // SAFETY: initialises the driver.
    ok(unsafe { sys::cuInit(0) });
    let handle = hook::subscribe();
    assert_eq!(hook::enable(true, handle, 6, CONTEXT_CREATE), 0);
    // SAFETY: makes a context and leaves it current.
    let make = || get(|out| unsafe { sys::cuCtxCreate_v4(out, std::ptr::null_mut(), 0, 0) });
    let seen = || {
        let seen = hook::take_seen().into_iter();
        let contexts = seen.map(|seen| (seen.context, seen.context_id));
        contexts.collect::<Vec<_>>()
    };
    let first = make();
    let first_seen = (first.addr(), id_of(first));
    assert_ne!(first_seen.1, 0);
    assert_eq!(seen(), [(0, 0), first_seen]);
    let second = make();
    let second_seen = (second.addr(), id_of(second));
    assert_eq!(seen(), [first_seen, second_seen]);
}

/// Looks a function up.
fn find(name: &str, version: c_int, flags: u64) -> (*mut c_void, Query) {
    let name = CString::new(name).expect("a name");
    let mut address = std::ptr::null_mut();
    // SAFETY: the name is a string and the results have places.
    let status = get(|status| unsafe {
        sys::cuGetProcAddress_v2(name.as_ptr(), &raw mut address, version, flags, status)
    });
    (address, status)
}

/// Launches `fill` through the twin whose null stream is the thread's own.
fn launch_per_thread(program: &Program, out: u64) {
    type Launch = unsafe extern "C" fn(
        sys::CUfunction,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        sys::CUstream,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> CUresult;
    let (launch, status) = find("cuLaunchKernel", 13_000, 2);
    assert_eq!(status, Query::CU_GET_PROC_ADDRESS_SUCCESS);
    // SAFETY: this is the function's type.
    let launch = unsafe { std::mem::transmute::<*mut c_void, Launch>(launch) };
    let parameters = [Parameter::Address(out), Parameter::Word(9)];
    let mut pointers = [parameters[0].pointer(), parameters[1].pointer()];
    let function = program.function("fill");
    // SAFETY: the kernel's parameters are as it wants them.
    ok(unsafe {
        launch(
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
            std::ptr::null_mut(),
        )
    });
    // SAFETY: 2 is the calling thread's own default stream.
    ok(unsafe { sys::cuStreamSynchronize(std::ptr::without_provenance_mut(2)) });
    assert_eq!(read(out, 2), [9, 10]);
}

fn addresses() {
    let program = Program::new();
    launch_per_thread(&program, words(32));
    let known = |name, version, flags| {
        let (address, status) = find(name, version, flags);
        assert_eq!(
            status,
            Query::CU_GET_PROC_ADDRESS_SUCCESS,
            "{name} {version}"
        );
        assert!(!address.is_null());
        address
    };
    assert_ne!(
        known("cuLaunchKernel", 13_000, 0),
        known("cuLaunchKernel", 13_000, 2)
    );
    assert_eq!(
        known("cuLaunchKernel", 13_000, 0),
        known("cuLaunchKernel", 13_000, 1)
    );
    // No twin for the thread's own stream: the ordinary one will do.
    assert_eq!(
        known("cuMemAlloc", 13_000, 0),
        known("cuMemAlloc", 13_000, 2)
    );
    // Versions.
    assert_ne!(
        known("cuCtxCreate", 13_000, 0),
        known("cuCtxCreate", 12_000, 0)
    );
    assert_ne!(
        known("cuCtxCreate", 12_000, 0),
        known("cuCtxCreate", 10_000, 0)
    );
    let (address, status) = find("cuLaunchKernelEx", 11_000, 0);
    assert_eq!(status, Query::CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    assert!(address.is_null());
    let (address, status) = find("cuNoSuchThing", 13_000, 0);
    assert_eq!(status, Query::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    assert!(address.is_null());
    // The older function, which its age finds, reports a miss as an error.
    type Find = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64) -> CUresult;
    let older = known("cuGetProcAddress", 11_030, 0);
    assert_ne!(older, known("cuGetProcAddress", 12_000, 0));
    // SAFETY: this is the function's type; the names are strings and the result has a place.
    unsafe {
        let older = std::mem::transmute::<*mut c_void, Find>(older);
        let mut address = std::ptr::null_mut();
        let missing = older(c"cuNo".as_ptr(), &raw mut address, 12_000, 0);
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        let future = older(c"cuInit".as_ptr(), &raw mut address, 14_000, 0);
        assert_eq!(future, CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(older(c"cuInit".as_ptr(), &raw mut address, 12_000, 0));
    }
}

fn forking() {
    let program = Program::new();
    let out = words(32);
    // SAFETY: the child only makes driver calls, which return at once, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let mut count = 0;
        // SAFETY: these calls touch nothing but their arguments.
        let results = unsafe {
            [
                sys::cuInit(0),
                sys::cuDeviceGetCount(&raw mut count),
                sys::cuCtxSynchronize(),
                sys::cuMemFree_v2(out),
            ]
        };
        let refused = results
            .iter()
            .all(|&r| r == CUresult::CUDA_ERROR_NOT_INITIALIZED);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(c_int::from(!refused)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    // The parent goes on as if nothing had happened.
    let parameters = [Parameter::Address(out), Parameter::Word(3)];
    program.launch("fill", [1, 1, 1], 32, NULL, &parameters);
    assert_eq!(read(out, 2), [3, 4]);
}
