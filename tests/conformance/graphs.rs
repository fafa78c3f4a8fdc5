// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CUDA graphs, which simgpu does not have.

use std::collections::BTreeSet;
use std::ptr;

use cudarc::driver::sys::{self, CUgraphExec, CUstreamCaptureMode};
use lithos_descriptor::hopper::{Action, Kind, fields};
use lithos_tests::cuda::{Buffer, Shape, SmSet, check};

use crate::statement::statements;
use crate::subject::{Subject, TPC_SMS, buffer, nothing, only, read};
use crate::subscriber::{Editable, Upload};

statements! {
    Ends:
        a_graph_is_uploaded_at_its_first_launch_and_replayed_without_callbacks
        a_graph_of_three_kernels_is_an_empty_head_that_schedules_the_nodes
        the_last_of_three_nodes_is_uploaded_first_and_the_head_last
        one_node_of_a_graph_releases_and_none_arrives_at_a_latch
        a_graph_of_one_kernel_is_a_launch_without_a_mark
        a_graph_of_two_kernels_is_a_node_without_a_mark_that_schedules_a_marked_one
        a_graph_keeps_the_masks_that_its_nodes_were_uploaded_with
        the_masks_of_a_graphs_nodes_can_be_rewritten_between_replays;
}

/// A graph that can be launched. It stays until the process ends.
struct Graph(CUgraphExec);

impl Graph {
    /// Records what is launched in the subject's stream.
    fn record(subject: &Subject, launches: impl FnOnce()) -> Self {
        let stream = subject.stream.handle();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(stream, mode) };
        check("cuStreamBeginCapture", begun).expect("a capture");
        launches();
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is being captured; writes one handle.
        let ended = unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) };
        check("cuStreamEndCapture", ended).expect("a graph");
        // SAFETY: the graph is alive; writes one handle.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0) };
        check("cuGraphInstantiate", made).expect("a graph to launch");
        Self(executable)
    }

    /// Launches it, waits for its end and gives what was uploaded.
    fn launch(
        &self,
        subject: &Subject,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> Vec<Upload> {
        let launch = || {
            // SAFETY: both handles are alive.
            let launched = unsafe { sys::cuGraphLaunch(self.0, subject.stream.handle()) };
            check("cuGraphLaunch", launched).expect("a launch");
            subject.stream.synchronize().expect("the end of the graph");
        };
        subject.subscriber.editing(edit, launch).1
    }
}

/// A graph of so many kernels, and the word that each of them counts up.
fn graph_of(subject: &Subject, kernels: u32) -> (Graph, [Buffer; 2]) {
    let (counts, grid) = (buffer(1), buffer(3));
    let words = [counts.address(), grid.address()];
    let graph = Graph::record(subject, || {
        for _ in 0..kernels {
            let shape = Shape::row(1, 32);
            let launched = subject.trace.launch(&shape, &subject.stream, &words);
            launched.expect("a launch");
        }
    });
    (graph, [counts, grid])
}

fn a_graph_is_uploaded_at_its_first_launch_and_replayed_without_callbacks() {
    let subject = Subject::new();
    for kernels in [1, 2, 3, 12] {
        let (graph, [counts, _]) = graph_of(&subject, kernels);
        let uploads = graph.launch(&subject, nothing).len();
        assert!(uploads >= kernels as usize, "{uploads} of {kernels}");
        for replay in 2..5 {
            assert_eq!(graph.launch(&subject, nothing).len(), 0, "{kernels}");
            assert_eq!(read(&counts), [replay * kernels]);
        }
    }
}

/// What is uploaded for a graph of so many kernels.
fn uploads_of(subject: &Subject, kernels: u32) -> Vec<Upload> {
    let (graph, _buffers) = graph_of(subject, kernels);
    graph.launch(subject, nothing)
}

/// The descriptor that another one schedules.
fn scheduled(upload: &Upload) -> Option<u64> {
    let dependent = upload.descriptor.dependent(0)?;
    (dependent.action == Action::Schedule).then_some(dependent.address)
}

/// Whether a descriptor bears the marks of a graph's node.
fn is_marked(upload: &Upload) -> bool {
    let (node, pcas) = (
        fields::SELF_COPY_ON_COMPLETION,
        fields::REQUIRE_SCHEDULING_PCAS,
    );
    [node, pcas].map(|field| upload.descriptor.get(field)) == [1, 1]
}

fn a_graph_of_three_kernels_is_an_empty_head_that_schedules_the_nodes() {
    let mut uploads = uploads_of(&Subject::new(), 3);
    let empty = |upload: &Upload| {
        let descriptor = upload.descriptor;
        (descriptor.kind(), descriptor.grid()) == (Kind::Grid, [0; 3])
    };
    let heads: Vec<Upload> = uploads.extract_if(.., |upload| empty(upload)).collect();
    assert_eq!((heads.len(), uploads.len()), (1, 3));
    assert!(!is_marked(&heads[0]) && uploads.iter().all(is_marked));
    // All three nodes are scheduled by another, and so one schedules nobody.
    let others = heads.iter().chain(&uploads);
    let scheduled: BTreeSet<u64> = others.filter_map(scheduled).collect();
    assert_eq!(scheduled.len(), 3);
}

fn the_last_of_three_nodes_is_uploaded_first_and_the_head_last() {
    let uploads = uploads_of(&Subject::new(), 3);
    let blocks = uploads.iter().map(|upload| upload.descriptor.block_count());
    assert_eq!(blocks.collect::<Vec<u64>>(), [1, 1, 1, 0]);
    let schedules = uploads.iter().map(|upload| scheduled(upload).is_some());
    assert_eq!(schedules.collect::<Vec<bool>>(), [false, true, true, true]);
}

fn one_node_of_a_graph_releases_and_none_arrives_at_a_latch() {
    let subject = Subject::new();
    for kernels in [1, 2, 3, 12] {
        let uploads = uploads_of(&subject, kernels);
        let releases = |upload: &&Upload| upload.descriptor.release(0).is_some();
        let last: Vec<&Upload> = uploads.iter().filter(releases).collect();
        assert_eq!(last.len(), 1, "{kernels}");
        assert_eq!(last[0].descriptor.dependent(0), None, "{kernels}");
        for upload in &uploads {
            assert_eq!(upload.descriptor.arrival_latch(), None, "{kernels}");
        }
    }
}

fn a_graph_of_one_kernel_is_a_launch_without_a_mark() {
    let uploads = uploads_of(&Subject::new(), 1);
    assert_eq!(uploads.len(), 1);
    assert!(!is_marked(&uploads[0]));
    assert_eq!(scheduled(&uploads[0]), None);
}

fn a_graph_of_two_kernels_is_a_node_without_a_mark_that_schedules_a_marked_one() {
    let uploads = uploads_of(&Subject::new(), 2);
    let [last, first] = &uploads[..] else {
        panic!("{} uploads", uploads.len());
    };
    assert!(is_marked(last) && !is_marked(first));
    assert_eq!((scheduled(last), scheduled(first).is_some()), (None, true));
}

/// A graph of so many kernels that use every SM that they may use and note it.
fn graph_of_work(subject: &Subject, sms: &SmSet, blocks: &Buffer, kernels: u32) -> Graph {
    Graph::record(subject, || {
        for _ in 0..kernels {
            subject.launch_work(sms, blocks).expect("a launch");
        }
    })
}

fn a_graph_keeps_the_masks_that_its_nodes_were_uploaded_with() {
    let subject = Subject::new();
    let tpcs = subject.lowest_tpcs(2);
    let (sms, blocks) = (SmSet::new().expect("a set"), buffer(2));
    for kernels in [1, 3] {
        let graph = graph_of_work(&subject, &sms, &blocks, kernels);
        sms.clear().expect("its words");
        graph.launch(&subject, only(tpcs));
        for _ in 0..2 {
            assert_eq!(sms.count().expect("its words"), 2 * TPC_SMS, "{kernels}");
            sms.clear().expect("its words");
            graph.launch(&subject, nothing);
        }
    }
}

fn the_masks_of_a_graphs_nodes_can_be_rewritten_between_replays() {
    let subject = Subject::new();
    let tpcs = subject.lowest_tpcs(2);
    let (sms, blocks) = (SmSet::new().expect("a set"), buffer(2));
    let graph = graph_of_work(&subject, &sms, &blocks, 12);
    let uploads = graph.launch(&subject, nothing);
    assert_eq!(sms.count().expect("its words"), subject.gpu.sms);
    // Every node is the dependent of the one before it, the first that of the head.
    let dependents = uploads
        .iter()
        .filter_map(|upload| upload.descriptor.dependent(0));
    let nodes: Vec<u64> = dependents.map(|dependent| dependent.address).collect();
    assert_eq!(nodes.len(), 12);
    for node in nodes {
        subject.remask(node, tpcs);
    }
    sms.clear().expect("its words");
    graph.launch(&subject, nothing);
    assert_eq!(sms.count().expect("its words"), 2 * TPC_SMS);
}
