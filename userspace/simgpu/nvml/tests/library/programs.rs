// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The programs: each is one process that uses the library.

use std::collections::HashSet;
use std::ffi::{CStr, c_char};
use std::os::unix::net::UnixStream;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::NvmlLib;
use simgpu::page::StatusPage;
use simgpu::wire::{self, Receiver, Reply, Request};

use crate::built_library;

/// Does what the test asked for; a panic fails the test.
pub(crate) fn run(program: &str) {
    match program {
        "identity" => identity(),
        "activity" => activity(),
        "absent" => absent(),
        "arguments" => arguments(),
        "uses" => uses(),
        "forked" => forked(),
        "unloaded" => unloaded(),
        "bereft" => bereft(),
        other => panic!("no program {other}"),
    }
}

fn init() -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(built_library().as_os_str()).init()
}

fn identity() {
    let nvml = init().expect("NVML");
    assert_eq!(nvml.device_count().expect("a count"), 2);
    assert!(
        nvml.sys_driver_version()
            .expect("a version")
            .contains("simgpu")
    );
    assert!(nvml.sys_nvml_version().expect("a version").contains("580"));
    assert_eq!(nvml.sys_cuda_driver_version().expect("a version"), 13_000);
    let mut uuids = HashSet::new();
    for index in 0..2 {
        let device = nvml.device_by_index(index).expect("a device");
        assert_eq!(device.index().expect("its index"), index);
        assert!(device.name().expect("its name").contains("H100"));
        let uuid = device.uuid().expect("its UUID");
        assert!(uuid.starts_with("GPU-") && uuid.len() == 40, "{uuid}");
        let same = nvml.device_by_uuid(uuid.as_str()).expect("the same");
        assert_eq!(same.index().expect("its index"), index);
        assert!(uuids.insert(uuid));
        let pci = device.pci_info().expect("its address");
        let same = nvml
            .device_by_pci_bus_id(pci.bus_id.as_str())
            .expect("the same");
        assert_eq!(same.index().expect("its index"), index);
        let short = &pci.bus_id[4..];
        assert!(nvml.device_by_pci_bus_id(short).is_ok(), "{short}");
        let capability = device.cuda_compute_capability().expect("its capability");
        assert_eq!((capability.major, capability.minor), (9, 0));
        assert_eq!(device.num_cores().expect("its cores"), 66 * 256);
        let mig = device.mig_mode().expect("its MIG mode");
        assert_eq!((mig.current, mig.pending), (0, 0));
        assert_eq!(device.utilization_rates().expect("its use").gpu, 0);
    }
    let unknown = "GPU-00000000-0000-0000-0000-000000000000";
    assert!(matches!(
        nvml.device_by_uuid(unknown),
        Err(NvmlError::NotFound)
    ));
    assert!(matches!(
        nvml.device_by_index(2),
        Err(NvmlError::InvalidArg)
    ));
    assert!(matches!(
        nvml.device_by_pci_bus_id("0000:ff:1f.0"),
        Err(NvmlError::NotFound)
    ));
    assert!(matches!(
        nvml.device_by_pci_bus_id("nonsense"),
        Err(NvmlError::InvalidArg)
    ));
}

/// A client of the simulated driver, as far as NVML can see it.
struct Client {
    socket: UnixStream,
    receiver: Receiver,
    _page: StatusPage,
}

impl Client {
    fn new() -> Self {
        let path = std::env::var_os(wire::SOCKET_VARIABLE).expect("the server's socket");
        let socket = UnixStream::connect(path).expect("a connection");
        let page = StatusPage::create().expect("a page");
        let hello = Request::Hello {
            version: wire::VERSION,
            priority: 0,
            page: true,
        };
        wire::send(&socket, &hello, Some(page.memory().fd())).expect("sent");
        let mut client = Self {
            socket,
            receiver: Receiver::default(),
            _page: page,
        };
        assert!(matches!(client.answer(), Reply::Gpus(_)));
        client
    }

    fn answer(&mut self) -> Reply {
        let reply = self.receiver.receive(&self.socket);
        reply.expect("an answer").expect("a server")
    }

    fn ask(&mut self, request: &Request) -> Reply {
        wire::send(&self.socket, request, None).expect("sent");
        self.answer()
    }
}

fn activity() {
    let nvml = init().expect("NVML");
    let [first, second] = [0, 1].map(|index| nvml.device_by_index(index).expect("a device"));
    assert!(
        second
            .running_compute_processes()
            .expect("a list")
            .is_empty()
    );
    assert_eq!(second.memory_info().expect("its memory").used, 0);
    let mut client = Client::new();
    let open = Request::OpenContext { context: 0, gpu: 1 };
    assert_eq!(client.ask(&open), Reply::Done);
    let allocate = Request::Allocate {
        context: 0,
        bytes: 64 << 20,
    };
    assert!(matches!(client.ask(&allocate), Reply::Address(_)));
    let processes = second.running_compute_processes().expect("a list");
    assert_eq!(processes.len(), 1);
    assert_eq!(processes[0].pid, std::process::id());
    assert_eq!(processes[0].used_gpu_memory, UsedGpuMemory::Used(64 << 20));
    assert_eq!(
        second.running_compute_processes_count().expect("a count"),
        1
    );
    let memory = second.memory_info().expect("its memory");
    assert_eq!(memory.total, 1024 << 20);
    assert_eq!(memory.used, 64 << 20);
    assert_eq!(memory.free, memory.total - memory.used);
    assert!(
        first
            .running_compute_processes()
            .expect("a list")
            .is_empty()
    );
    assert!(
        second
            .running_graphics_processes()
            .expect("a list")
            .is_empty()
    );
    assert!(
        second
            .mps_running_compute_processes()
            .expect("a list")
            .is_empty()
    );
    let program = std::env::current_exe().expect("this executable");
    let name = nvml
        .sys_process_name(std::process::id(), 4096)
        .expect("a name");
    assert_eq!(name, program.to_string_lossy());
    let close = Request::CloseContext { context: 0 };
    assert_eq!(client.ask(&close), Reply::Done);
    assert!(
        second
            .running_compute_processes()
            .expect("a list")
            .is_empty()
    );
}

fn absent() {
    let nvml = init().expect("NVML");
    let device = nvml.device_by_index(0).expect("a device");
    let missing = |error| matches!(error, NvmlError::FailedToLoadSymbol(_));
    assert!(missing(device.clock_info(Clock::SM).expect_err("absent")));
    assert!(missing(device.power_usage().expect_err("absent")));
    assert!(missing(
        device.total_energy_consumption().expect_err("absent")
    ));
    let locked = nvml_wrapper::enums::device::GpuLockedClocksSetting::Numeric {
        min_clock_mhz: 500,
        max_clock_mhz: 900,
    };
    let mut device = device;
    assert!(missing(
        device.set_gpu_locked_clocks(locked).expect_err("absent")
    ));
}

/// The library without the wrapper's care.
fn bare() -> NvmlLib {
    // SAFETY: loading the library runs no code of its own.
    unsafe { NvmlLib::new(built_library()) }.expect("the library")
}

fn arguments() {
    let lib = bare();
    let mut count = 0;
    let mut buffer = [0 as c_char; 96];
    let mut device = std::ptr::null_mut();
    // SAFETY: every pointer is null or to a local of the right type and size.
    unsafe {
        assert_eq!(lib.nvmlDeviceGetCount_v2(&raw mut count), 1);
        assert_eq!(lib.nvmlShutdown(), 1);
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlDeviceGetCount_v2(std::ptr::null_mut()), 2);
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(1, &raw mut device), 0);
        assert_eq!(lib.nvmlDeviceGetName(device, buffer.as_mut_ptr(), 5), 7);
        assert_eq!(lib.nvmlDeviceGetName(device, std::ptr::null_mut(), 96), 2);
        let wild = std::ptr::without_provenance_mut(0x1234);
        assert_eq!(lib.nvmlDeviceGetName(wild, buffer.as_mut_ptr(), 96), 2);
        assert_eq!(
            lib.nvmlDeviceGetUUID(std::ptr::null_mut(), buffer.as_mut_ptr(), 96),
            2
        );
        assert_eq!(
            lib.nvmlDeviceGetHandleByUUID(std::ptr::null(), &raw mut device),
            2
        );
        let mut status = 0;
        assert_eq!(lib.nvmlDeviceSetMigMode(device, 1, &raw mut status), 3);
        assert_eq!(
            lib.nvmlSystemGetProcessName(u32::MAX, buffer.as_mut_ptr(), 96),
            6
        );
        // The first memory structure has no version; the second must have the right one.
        let mut memory = std::mem::zeroed();
        assert_eq!(lib.nvmlDeviceGetMemoryInfo(device, &raw mut memory), 0);
        assert_eq!(memory.total, 1024 << 20);
        let mut memory = std::mem::zeroed();
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory), 25);
        for code in [0, 1, 2, 3, 4, 6, 7, 9, 10, 15, 18, 999, 12_345] {
            let text = CStr::from_ptr(lib.nvmlErrorString(code));
            assert!(!text.is_empty());
            assert_eq!(text == c"Unknown Error", code >= 999, "{code}");
        }
    }
}

fn uses() {
    let lib = bare();
    let mut count = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe {
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlInitWithFlags(1), 0);
        assert_eq!(lib.nvmlShutdown(), 0);
        assert_eq!(lib.nvmlDeviceGetCount_v2(&raw mut count), 0);
        assert_eq!(count, 2);
        assert_eq!(lib.nvmlShutdown(), 0);
        assert_eq!(lib.nvmlDeviceGetCount_v2(&raw mut count), 1);
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlDeviceGetCount_v2(&raw mut count), 0);
    }
}

fn forked() {
    let nvml = init().expect("NVML");
    let device = nvml.device_by_index(0).expect("a device");
    assert!(device.memory_info().is_ok());
    // SAFETY: this program has one thread, so the child is as sound as its parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let good = (0..100).all(|_| device.memory_info().is_ok());
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    assert!((0..100).all(|_| device.memory_info().is_ok()));
    let mut status = 0;
    // SAFETY: the pointer is to a local of the right type.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

fn unloaded() {
    assert!(matches!(init(), Err(NvmlError::DriverNotLoaded)));
}

fn bereft() {
    let nvml = init().expect("NVML");
    let device = nvml.device_by_index(0).expect("a device");
    assert!(device.memory_info().is_ok());
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
    assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
    assert!(nvml.sys_driver_version().is_ok());
}
