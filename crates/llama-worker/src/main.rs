//! `haul-llama`: llama.cpp in a process of its own.
fn main() {}
