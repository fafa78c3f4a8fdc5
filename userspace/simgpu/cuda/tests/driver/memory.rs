// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory: device, pinned, registered; copies and fills; what is refused.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};
use simgpu::config::Options;

use crate::cuda::{NULL, Parameter, Program, get, ok, read, stream, synchronize, words, write};
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("pinned", pinned),
    ("registered", registered),
    ("copies", copies),
    ("refusals", refusals),
    ("two_gpus", two_gpus),
];

pub(crate) const TESTS: &[crate::Test] = &[
    ("kernels_write_pinned_memory_at_its_own_address", || {
        Simulation::new(&options()).run("pinned");
    }),
    ("any_memory_of_a_program_can_be_registered_once", || {
        Simulation::new(&options()).run("registered");
    }),
    ("copies_and_fills_keep_the_order_of_their_stream", || {
        Simulation::new(&options()).run("copies");
    }),
    ("what_the_driver_would_refuse_is_refused", || {
        Simulation::new(&options()).run("refusals");
    }),
    ("gpus_have_their_own_memory_and_share_the_programs", || {
        let options = Options {
            gpus: 2,
            ..options()
        };
        Simulation::new(&options).run("two_gpus");
    }),
];

/// A pointer's address, as a kernel's parameter.
fn address<T>(pointer: *mut T) -> u64 {
    pointer.expose_provenance() as u64
}

fn pinned() {
    let program = Program::new();
    // SAFETY: 64 words of pinned memory, read after the kernel and freed.
    unsafe {
        let memory: *mut u32 = get(|out| sys::cuMemHostAlloc(out, 256, 2)).cast();
        let device = get(|out| sys::cuMemHostGetDevicePointer_v2(out, memory.cast(), 0));
        assert_eq!(device, address(memory));
        let parameters = [Parameter::Address(device), Parameter::Word(50)];
        program.launch("fill", [2, 1, 1], 32, NULL, &parameters);
        synchronize();
        for i in 0..64_u32 {
            assert_eq!(memory.add(i as usize).read_volatile(), 50 + i);
        }
        // Copies work between pinned and device memory, with and without waiting.
        let out = words(64);
        ok(sys::cuMemcpyHtoDAsync_v2(out, memory.cast(), 256, NULL));
        assert_eq!(read(out, 3), [50, 51, 52]);
        ok(sys::cuMemFreeHost(memory.cast()));
        assert_eq!(
            sys::cuMemFreeHost(memory.cast()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
}

fn registered() {
    let program = Program::new();
    // Any address will do, and any size.
    let mut memory = vec![0_u32; 5000];
    let begin = memory.as_mut_ptr();
    let register = |offset: usize, words: usize| {
        // SAFETY: a part of the vector, which lives to the end.
        unsafe { sys::cuMemHostRegister_v2(begin.add(offset).cast(), 4 * words, 3) }
    };
    ok(register(10, 100));
    let again = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    for (offset, words) in [(10, 100), (50, 10), (0, 11), (109, 50), (0, 5000)] {
        assert_eq!(register(offset, words), again, "{offset} {words}");
    }
    ok(register(110, 64));
    // A kernel writes across the seam of two registrations.
    // SAFETY: inside the vector.
    let place = address(unsafe { begin.add(100) });
    let parameters = [Parameter::Address(place), Parameter::Word(1000)];
    program.launch("fill", [1, 1, 1], 64, NULL, &parameters);
    synchronize();
    for i in 0..64_u32 {
        // SAFETY: inside the vector; written by another process.
        let word = unsafe { begin.add(100 + i as usize).read_volatile() };
        assert_eq!(word, 1000 + i);
    }
    // SAFETY: registered above.
    unsafe {
        ok(sys::cuMemHostUnregister(begin.add(10).cast()));
        let twice = sys::cuMemHostUnregister(begin.add(10).cast());
        assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        ok(sys::cuMemHostUnregister(begin.add(110).cast()));
    }
    ok(register(0, 5000));
    // What is not mapped cannot be registered.
    // SAFETY: nothing is touched.
    let nothing = unsafe { sys::cuMemHostRegister_v2(8192 as *mut c_void, 4096, 0) };
    assert_eq!(nothing, CUresult::CUDA_ERROR_INVALID_VALUE);
}

fn copies() {
    let program = Program::new();
    let out = words(1 << 20);
    let work = stream(0);
    let fill = |value| {
        let parameters = [Parameter::Address(out), Parameter::Word(value)];
        program.launch("fill", [1, 1, 1], 32, work, &parameters);
    };
    // SAFETY: buffers are as long as the copies.
    unsafe {
        // A copy from memory that changes at once takes what was there at the call.
        let mut source = [7_u32; 32];
        fill(1);
        ok(sys::cuMemcpyHtoDAsync_v2(
            out,
            source.as_ptr().cast(),
            64,
            work,
        ));
        source.fill(8);
        let mut back = vec![0_u32; 32];
        ok(sys::cuMemcpyDtoHAsync_v2(
            back.as_mut_ptr().cast(),
            out,
            128,
            work,
        ));
        assert_eq!(&back[..17], [&[7; 16][..], &[17]].concat());
        // Fills of every width.
        ok(sys::cuMemsetD32Async(out, 0x0102_0304, 4, work));
        ok(sys::cuMemsetD16Async(out + 2, 0xffee, 1, work));
        ok(sys::cuMemsetD8Async(out + 4, 0x55, 3, work));
        ok(sys::cuMemcpyDtoDAsync_v2(out + 64, out, 16, work));
        ok(sys::cuStreamSynchronize(work));
        let expected = [0xffee_0304, 0x0155_5555, 0x0102_0304, 0x0102_0304];
        assert_eq!(read(out + 64, 4), expected);
        // Large ones.
        let large: Vec<u32> = (0..1 << 20).collect();
        write(out, &large);
        let copy = words(1 << 20);
        ok(sys::cuMemcpy(copy, out, 4 << 20));
        assert_eq!(read(copy, 1 << 20), large);
        // Allocations in stream order.
        let early = get(|out| sys::cuMemAllocAsync(out, 1024, work));
        ok(sys::cuMemsetD32Async(early, 3, 256, work));
        ok(sys::cuMemcpyDtoDAsync_v2(out, early, 1024, work));
        ok(sys::cuMemFreeAsync(early, work));
        ok(sys::cuStreamSynchronize(work));
        assert_eq!(read(out, 256), vec![3; 256]);
    }
}

fn refusals() {
    use CUresult as R;
    let program = Program::new();
    let out = words(32);
    let parameters = [Parameter::Address(out), Parameter::Word(0)];
    let launch =
        |grid, block, shared| program.try_launch("fill", grid, block, shared, NULL, &parameters);
    assert_eq!(launch([0, 1, 1], 32, 0), R::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch([1, 65_536, 1], 32, 0), R::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], 1025, 0), R::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(
        launch([1, 1, 1], 32, 48 * 1024 + 1),
        R::CUDA_ERROR_INVALID_VALUE
    );
    ok(launch([1, 1, 1], 32, 48 * 1024));
    // SAFETY: wrong arguments that must be noticed before anything is touched.
    unsafe {
        let largest = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let fill = program.function("fill");
        ok(sys::cuFuncSetAttribute(fill, largest, 227 * 1024));
        ok(launch([1, 1, 1], 32, 227 * 1024));
        let too_large = sys::cuFuncSetAttribute(fill, largest, 227 * 1024 + 1);
        assert_eq!(too_large, R::CUDA_ERROR_INVALID_VALUE);
        let mut address = 0;
        let all = sys::cuMemAlloc_v2(&raw mut address, 2 << 30);
        assert_eq!(all, R::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(sys::cuMemFree_v2(out + 4), R::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD32_v2(out, 0, 33), R::CUDA_ERROR_INVALID_VALUE);
        let bad = sys::cuStreamSynchronize(0x1234_5678 as sys::CUstream);
        assert_eq!(bad, R::CUDA_ERROR_INVALID_HANDLE);
        let mut module = std::ptr::null_mut();
        let elf = sys::cuModuleLoadData(&raw mut module, c"\x7fELF and more".as_ptr().cast());
        assert_eq!(elf, R::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let text = c".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry f( {";
        let wrong = sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast());
        assert_eq!(wrong, R::CUDA_ERROR_INVALID_PTX);
        let mut function = std::ptr::null_mut();
        let name = c"missing".as_ptr();
        let missing = sys::cuModuleGetFunction(&raw mut function, program.module, name);
        assert_eq!(missing, R::CUDA_ERROR_NOT_FOUND);
        let (mut global, mut bytes) = (0, 0);
        let name = c"answer".as_ptr();
        ok(sys::cuModuleGetGlobal_v2(
            &raw mut global,
            &raw mut bytes,
            program.module,
            name,
        ));
        assert_eq!((read(global, 1), bytes), (vec![42], 4));
        // 4 TPCs hold 16 blocks of 1024 threads, not 17.
        let mut pointers = [parameters[0].pointer(), parameters[1].pointer()];
        let big = words(17 * 1024);
        let parameters = [Parameter::Address(big), Parameter::Word(0)];
        pointers[0] = parameters[0].pointer();
        let mut cooperative = |blocks| {
            let parameters = pointers.as_mut_ptr();
            sys::cuLaunchCooperativeKernel(fill, blocks, 1, 1, 1024, 1, 1, 0, NULL, parameters)
        };
        ok(cooperative(16));
        assert_eq!(cooperative(17), R::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    synchronize();
}

fn two_gpus() {
    let program = Program::new();
    let out = words(32);
    // SAFETY: contexts, memory and events are used in the context that they belong to.
    unsafe {
        assert_eq!(get(|out| sys::cuDeviceGetCount(out)), 2);
        let uuid = |device| get(|out| sys::cuDeviceGetUuid_v2(out, device));
        assert_ne!(uuid(0).bytes, uuid(1).bytes);
        let event = get(|out| sys::cuEventCreate(out, 0));
        let first = [Parameter::Address(out), Parameter::Word(10)];
        program.launch("fill", [1, 1, 1], 32, NULL, &first);
        ok(sys::cuEventRecord(event, NULL));
        let context = get(|out| sys::cuDevicePrimaryCtxRetain(out, 1));
        ok(sys::cuCtxSetCurrent(context));
        let other = Program {
            context,
            module: crate::cuda::load(crate::cuda::KERNELS),
        };
        // The second GPU waits for the first, and fetches what it wrote.
        let copy = words(32);
        ok(sys::cuStreamWaitEvent(NULL, event, 0));
        ok(sys::cuMemcpyPeerAsync(
            copy,
            context,
            out,
            program.context,
            128,
            NULL,
        ));
        synchronize();
        assert_eq!(read(copy, 2), [10, 11]);
        // A kernel of the second cannot reach memory of the first.
        let stray = [Parameter::Address(out), Parameter::Word(0)];
        other.launch("fill", [1, 1, 1], 32, NULL, &stray);
        assert_eq!(
            sys::cuCtxSynchronize(),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        // Which is no business of the first.
        ok(sys::cuCtxSetCurrent(program.context));
        program.launch("fill", [1, 1, 1], 32, NULL, &first);
        assert_eq!(read(out, 1), [10]);
    }
}
