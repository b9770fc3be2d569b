//! What `haul bench store` measured.

use haul_jobs::bench::store::Report;
use haul_machine::cpu::Cpu;

use super::{bytes, thousands, wrapped};

/// A screen of numbers.
pub(crate) fn report(report: &Report, cpu: &Cpu) -> String {
    let Report { rows, dim, queries, threads, k, .. } = report;
    let rss = report.ingest_peak_rss_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let ingest_s = report.ingest_s;
    let ingest_rate = thousands(report.ingest_rows_per_s as u64);
    let heading = format!(
        "{} vectors of {dim} numbers on {}, {}, {threads} threads",
        thousands(*rows),
        cpu.name,
        cpu.isa.name()
    );
    [
        wrapped(&heading, ""),
        String::new(),
        format!("  ingest    {ingest_s:.1} s, {ingest_rate} rows/s, at most {rss} of memory"),
        format!("  library   {}", bytes(report.library_bytes)),
        format!("  segment   {}, made in {:.1} s", bytes(report.segment_bytes), report.segment_build_s),
        format!("  opening   {:.3} s, with the segment mapped and checked", report.open_s),
        format!(
            "  scan      p50 {:.1} ms, p95 {:.1} ms (exact, k = {k}, {queries} queries)",
            report.scan_p50_ms, report.scan_p95_ms
        ),
        format!("  recall    {:.4} at {k}, against a plain scan in f32", report.recall_at_10),
        format!(
            "  memory    {:.1} GB/s scanned, {:.1} GB/s measured",
            report.scan_gb_per_s, report.memory_gb_per_s
        ),
    ]
    .join("\n")
}
