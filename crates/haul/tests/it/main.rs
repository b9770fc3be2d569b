//! The program as its users meet it: every test runs the built binary.
//!
//! What a test lacks (a model, shared data) it says in the file named by HAUL_TEST_SKIPS and returns; see
//! `fixtures::Needs`. HAUL_TEST_FULL=1 runs the fault suites at their full size.
#![expect(
    clippy::unwrap_used,
    reason = "what fixtures cannot do fails the test; the lint knows `#[test]` functions only"
)]

mod calibre;
mod chunks;
mod cli;
mod cluster;
mod compare;
mod correct;
mod disk;
mod embed;
mod extract;
mod fixtures;
mod generate;
mod hostile;
mod house;
mod ingest;
mod kill;
#[expect(dead_code, reason = "the tests of `generate`, whose stand-in it is, use all of it")]
#[path = "../../../generate/tests/it/server.rs"]
mod llm_server;
mod modes;
mod outputs;
mod pdf;
mod pdfs;
mod qdrant;
mod quality;
#[expect(dead_code, reason = "the tests of `llama-worker`, whose models these are, use all of it")]
#[path = "../../../llama-worker/tests/it/random.rs"]
mod random;
mod records;
mod reembed;
mod remote;
mod scale;
mod schema;
mod search;
mod shards;
mod sparse;
#[path = "../../../store/tests/standin/mod.rs"]
mod standin;
mod vision;
mod vision_mc;
