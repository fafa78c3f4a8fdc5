// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The hook: how one gets in, and what the callbacks are told.

use std::ffi::CStr;
use std::ptr;
use std::thread;

use cudarc::driver::sys::{self, CUresult};
use lithos_tests::cuda::{self, Error, Module, Shape, Stream, source};
use lithos_tests::testbed::Programs;

use crate::statement::statements;
use crate::subject::{Subject, buffer, nothing, read};
use crate::subscriber::{self, Call};

statements! {
    Ends:
        cuinit_loads_the_library_that_cuda_injection64_path_names
        there_is_one_subscriber_per_process
        a_subscriber_is_shown_the_descriptor_of_every_launch
        the_upload_callback_is_told_context_function_and_descriptor
        a_function_can_be_asked_for_its_name_after_its_launch
        the_upload_callback_runs_inside_the_launch_on_its_thread
        an_api_callback_comes_at_the_beginning_and_at_the_end_of_a_call
        an_api_callback_is_told_name_arguments_context_and_number
        the_result_is_999_before_a_call_and_its_own_after
        a_call_that_is_skipped_returns_what_the_subscriber_says_and_does_nothing
        a_result_that_is_changed_at_the_end_of_a_call_is_what_it_returns
        an_output_that_is_changed_at_the_end_of_a_call_is_what_its_caller_finds
        an_argument_that_is_changed_at_the_beginning_of_a_call_is_what_it_acts_on
        cuda_calls_work_inside_an_api_callback;
}

/// The number of cuLaunchKernel, as in CUPTI's `cupti_driver_cbid.h`.
const LAUNCH_KERNEL: i32 = 307;
/// The number of cuDeviceGetAttribute.
pub(crate) const DEVICE_GET_ATTRIBUTE: i32 = 9;
/// The number of cuStreamCreateWithPriority.
pub(crate) const STREAM_CREATE_WITH_PRIORITY: i32 = 367;
/// What the driver answers to a second subscriber.
const SUBSCRIBED: u32 = 210;

fn cuinit_loads_the_library_that_cuda_injection64_path_names() {
    // Any library with an `InitializeInjection` will do. Without a partition this one does nothing.
    let library = "liblithos_shim.so";
    let path = Programs::beside_this().expect("the programs").path(library);
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("CUDA_INJECTION64_PATH", path) };
    let is_loaded = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("the memory map");
        maps.contains(library)
    };
    assert!(!is_loaded());
    cuda::initialise().expect("the driver");
    assert!(is_loaded());
}

fn there_is_one_subscriber_per_process() {
    let subject = Subject::new();
    assert_eq!(subscriber::subscribe().0, SUBSCRIBED);
    // The first one still is.
    subject.control();
}

/// Launches `trace` as four blocks; returns how often they ran.
fn launch_four(subject: &Subject) -> Result<Vec<u32>, Error> {
    let (counts, grid) = (buffer(4), buffer(3));
    let words = [counts.address(), grid.address()];
    let launched = subject
        .trace
        .launch(&Shape::row(4, 32), &subject.stream, &words);
    subject.stream.synchronize()?;
    launched.map(|()| read(&counts))
}

fn a_subscriber_is_shown_the_descriptor_of_every_launch() {
    let subject = Subject::new();
    let words = subject.scratch();
    let ((), uploads) = subject.subscriber.editing(nothing, || {
        for blocks in 1..=4 {
            let shape = Shape::row(blocks, 32);
            let launched = subject.trace.launch(&shape, &subject.stream, &words);
            launched.expect("a launch");
        }
        subject.stream.synchronize().expect("their end");
    });
    let grids: Vec<u32> = (uploads.iter().map(|upload| upload.descriptor.grid()[0])).collect();
    assert_eq!(grids, [1, 2, 3, 4]);
}

/// The context that is current, and its id.
fn current_context() -> (usize, usize) {
    let (mut context, mut id) = (ptr::null_mut(), 0);
    // SAFETY: both calls give their result through a pointer to a local.
    unsafe {
        assert_eq!(
            sys::cuCtxGetCurrent(&raw mut context),
            CUresult::CUDA_SUCCESS
        );
        assert_eq!(
            sys::cuCtxGetId(context, &raw mut id),
            CUresult::CUDA_SUCCESS
        );
    }
    (context.addr(), usize::try_from(id).expect("an id"))
}

fn the_upload_callback_is_told_context_function_and_descriptor() {
    let subject = Subject::new();
    let shape = Shape::grid([3, 2, 1], 64);
    let upload = subject.launch_trace(&shape, &subject.stream, nothing);
    assert!(
        upload.parameter_bytes >= 0x28,
        "{:#x}",
        upload.parameter_bytes
    );
    assert_eq!(upload.context, current_context().0);
    assert_eq!(upload.function, subject.trace.handle().addr());
    let descriptor = upload.descriptor;
    assert_eq!(
        (descriptor.grid(), descriptor.block()),
        ([3, 2, 1], [64, 1, 1])
    );
}

fn a_function_can_be_asked_for_its_name_after_its_launch() {
    let subject = Subject::new();
    let shape = Shape::row(1, 32);
    let upload = subject.launch_trace(&shape, &subject.stream, nothing);
    let mut name = ptr::null();
    let function = ptr::with_exposed_provenance_mut(upload.function);
    // SAFETY: the callback was told this function, and its module is still loaded.
    let result = unsafe { sys::cuFuncGetName(&raw mut name, function) };
    assert_eq!(result, CUresult::CUDA_SUCCESS);
    // SAFETY: the driver gives a text that lives as long as the module.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"trace");
}

fn the_upload_callback_runs_inside_the_launch_on_its_thread() {
    let subject = Subject::new();
    let (gpu, subscriber) = (subject.gpu, &subject.subscriber);
    let launch = || {
        let _context = gpu.primary().expect("the context");
        let module = Module::load(source::EMPTY).expect("PTX");
        let kernel = module.kernel(c"empty").expect("a kernel");
        let stream = Stream::new().expect("a stream");
        let launch = || kernel.launch(&Shape::row(1, 32), &stream, &[]);
        let (launched, uploads) = subscriber.editing(nothing, launch);
        launched.expect("a launch");
        stream.synchronize().expect("its end");
        // They were there when the launch returned.
        let threads: Vec<_> = uploads.iter().map(|upload| upload.thread).collect();
        assert_eq!(threads, [thread::current().id()]);
    };
    launch();
    thread::scope(|scope| scope.spawn(launch).join()).expect("the other thread");
}

/// What was told about a launch of four blocks, at its beginning and at its end.
fn watch_launch(subject: &Subject) -> [Call; 2] {
    let (counts, calls) =
        subject
            .subscriber
            .watching(LAUNCH_KERNEL, |_| None, || launch_four(subject));
    assert_eq!(counts.expect("a launch"), [1; 4]);
    calls.try_into().expect("two callbacks")
}

fn an_api_callback_comes_at_the_beginning_and_at_the_end_of_a_call() {
    let subject = Subject::new();
    let [begin, end] = watch_launch(&subject);
    assert_eq!((begin.is_exit, end.is_exit), (false, true));
}

fn an_api_callback_is_told_name_arguments_context_and_number() {
    let subject = Subject::new();
    for call in watch_launch(&subject) {
        assert_eq!(call.parameter_bytes, 0x68);
        assert_eq!(call.number, 307);
        assert_eq!(call.name, "cuLaunchKernel");
        assert_eq!((call.context, call.context_id), current_context());
        let [function, width_and_height, depth_and_threads] = call.arguments;
        assert_eq!(function, subject.trace.handle().addr());
        assert_eq!(
            (width_and_height, depth_and_threads),
            (4 | 1 << 32, 1 | 32 << 32)
        );
    }
}

fn the_result_is_999_before_a_call_and_its_own_after() {
    let subject = Subject::new();
    let [begin, end] = watch_launch(&subject);
    assert_eq!((begin.result, end.result), (999, 0));
    // A block has fewer threads than this.
    let launch = || {
        let shape = Shape::row(1, 4096);
        let words = subject.scratch();
        subject.trace.launch(&shape, &subject.stream, &words)
    };
    let (refusal, calls) = subject.subscriber.watching(LAUNCH_KERNEL, |_| None, launch);
    let refused = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert!(matches!(refusal, Err(Error::Call { result, .. }) if result == refused));
    let results: Vec<u32> = calls.iter().map(|call| call.result).collect();
    assert_eq!(results, [999, refused as u32]);
}

fn a_call_that_is_skipped_returns_what_the_subscriber_says_and_does_nothing() {
    let subject = Subject::new();
    let (counts, grid) = (buffer(1), buffer(3));
    let words = [counts.address(), grid.address()];
    let launch = || {
        subject
            .trace
            .launch(&Shape::row(1, 32), &subject.stream, &words)
    };
    let refusal = CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    let answer = move |call: &Call| (!call.is_exit).then_some(refusal as u32);
    let watched = || subject.subscriber.watching(LAUNCH_KERNEL, answer, launch);
    let ((launched, calls), uploads) = subject.subscriber.editing(nothing, watched);
    assert!(matches!(launched, Err(Error::Call { result, .. }) if result == refusal));
    assert_eq!(
        calls.last().map(|call| (call.is_exit, call.result)),
        Some((true, 720))
    );
    assert!(uploads.is_empty());
    subject.stream.synchronize().expect("an empty stream");
    assert_eq!(read(&counts), [0]);
    // The context is as it was.
    subject.control();
}

fn a_result_that_is_changed_at_the_end_of_a_call_is_what_it_returns() {
    let subject = Subject::new();
    let (counts, grid) = (buffer(1), buffer(3));
    let words = [counts.address(), grid.address()];
    let launch = || {
        subject
            .trace
            .launch(&Shape::row(1, 32), &subject.stream, &words)
    };
    let other = CUresult::CUDA_ERROR_NOT_SUPPORTED;
    let answer = move |call: &Call| call.is_exit.then_some(other as u32);
    let (launched, _) = subject.subscriber.watching(LAUNCH_KERNEL, answer, launch);
    assert!(matches!(launched, Err(Error::Call { result, .. }) if result == other));
    // It has happened all the same.
    subject.stream.synchronize().expect("the end of the launch");
    assert_eq!(read(&counts), [1]);
}

fn an_output_that_is_changed_at_the_end_of_a_call_is_what_its_caller_finds() {
    let subject = Subject::new();
    let asked = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let ask = || {
        let mut sms = 0;
        // SAFETY: it writes one integer.
        let result = unsafe { sys::cuDeviceGetAttribute(&raw mut sms, asked, 0) };
        assert_eq!(result, CUresult::CUDA_SUCCESS);
        sms
    };
    let all = ask();
    let change = move |call: &Call| {
        let [output, attribute_and_device, _] = call.arguments;
        assert_eq!(attribute_and_device, asked as usize);
        if call.is_exit {
            let output = std::ptr::with_exposed_provenance_mut::<i32>(output);
            // SAFETY: the caller's integer, which the driver has just written.
            unsafe { *output -= 1 };
        }
        None
    };
    let (found, calls) = subject
        .subscriber
        .watching(DEVICE_GET_ATTRIBUTE, change, ask);
    assert_eq!((found, calls.len()), (all - 1, 2));
    assert_eq!(ask(), all);
}

fn an_argument_that_is_changed_at_the_beginning_of_a_call_is_what_it_acts_on() {
    let subject = Subject::new();
    // Its arguments are where the stream is to be stored, flags, and the priority.
    let priority_of_one = || {
        let (mut stream, mut priority) = (ptr::null_mut(), 0);
        // SAFETY: they write a handle and an integer.
        let results = unsafe {
            [
                sys::cuStreamCreateWithPriority(&raw mut stream, 1, -3),
                sys::cuStreamGetPriority(stream, &raw mut priority),
                sys::cuStreamDestroy_v2(stream),
            ]
        };
        assert_eq!(results, [CUresult::CUDA_SUCCESS; 3]);
        priority
    };
    let change = |call: &Call| {
        if !call.is_exit {
            let at = std::ptr::with_exposed_provenance_mut::<i32>(call.arguments_at + 12);
            // SAFETY: the priority stands there, after a pointer and the flags.
            unsafe { at.write(-1) };
        }
        None
    };
    assert_eq!(priority_of_one(), -3);
    let watched = || {
        subject
            .subscriber
            .watching(STREAM_CREATE_WITH_PRIORITY, change, priority_of_one)
    };
    assert_eq!(watched().0, -1);
    assert_eq!(priority_of_one(), -3);
}

fn cuda_calls_work_inside_an_api_callback() {
    let subject = Subject::new();
    let answer = |_: &Call| {
        // What a context is in use for, may be used and waited for.
        assert_eq!(read(&buffer(3)), [0; 3]);
        cuda::Context::synchronize().expect("the end of everything");
        None
    };
    let launch = || launch_four(&subject);
    let (counts, calls) = subject.subscriber.watching(LAUNCH_KERNEL, answer, launch);
    assert_eq!((counts.expect("a launch"), calls.len()), (vec![1; 4], 2));
}
