// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CUDA graphs, which simgpu does not have.

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
        the_last_node_of_a_graph_is_uploaded_first_and_releases
        the_nodes_of_a_graph_of_two_kernels_carry_no_mark
        a_graph_keeps_the_masks_that_its_nodes_were_uploaded_with;
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

fn a_graph_of_three_kernels_is_an_empty_head_that_schedules_the_nodes() {
    let uploads = uploads_of(&Subject::new(), 3);
    let [nodes @ .., head] = &uploads[..] else {
        panic!("no uploads");
    };
    let head = head.descriptor;
    assert_eq!((head.kind(), head.grid()), (Kind::Grid, [0; 3]));
    assert!(!head.is_graph_node());
    let schedules = |dependent: Option<lithos_descriptor::hopper::Dependent>| {
        dependent.is_some_and(|dependent| dependent.action == Action::Schedule)
    };
    assert!(schedules(head.dependent(0)));
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert!(node.descriptor.is_graph_node());
        assert_eq!(node.descriptor.get(fields::REQUIRE_SCHEDULING_PCAS), 1);
    }
    for node in &nodes[1..] {
        assert!(schedules(node.descriptor.dependent(0)));
    }
}

fn the_last_node_of_a_graph_is_uploaded_first_and_releases() {
    let uploads = uploads_of(&Subject::new(), 12);
    let releases = uploads.iter().map(|upload| upload.descriptor.release(0));
    let releases: Vec<bool> = releases.map(|release| release.is_some()).collect();
    let mut expected = vec![false; uploads.len()];
    expected[0] = true;
    assert_eq!(releases, expected);
}

fn the_nodes_of_a_graph_of_two_kernels_carry_no_mark() {
    let subject = Subject::new();
    for kernels in [1, 2] {
        for upload in uploads_of(&subject, kernels) {
            assert!(!upload.descriptor.is_graph_node(), "{kernels}");
        }
    }
}

fn a_graph_keeps_the_masks_that_its_nodes_were_uploaded_with() {
    let subject = Subject::new();
    let tpcs = subject.lowest_tpcs(2);
    for kernels in [1, 3] {
        let (sms, blocks) = (SmSet::new().expect("a set"), buffer(2));
        let graph = Graph::record(&subject, || {
            for _ in 0..kernels {
                subject.launch_work(&sms, &blocks).expect("a launch");
            }
        });
        graph.launch(&subject, only(tpcs));
        for _ in 0..2 {
            assert_eq!(sms.count().expect("its words"), 2 * TPC_SMS, "{kernels}");
            sms.clear().expect("its words");
            graph.launch(&subject, nothing);
        }
    }
}
