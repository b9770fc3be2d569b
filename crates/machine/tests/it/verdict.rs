use haul_kernels::dtype::Dtype;
use haul_machine::cpu::{self, Cpu, Isa};
use haul_machine::roof::Roofs;
use haul_machine::verdict::{DeviceRequest, Placement, Verdict, WitnessKind, resolve};

fn cpu_named(name: &str) -> Cpu {
    Cpu { name: name.to_owned(), ..cpu::probe(Isa::best()) }
}

/// int16 at twice the f32 roof, bf16 and int8 at the same.
fn roofs_of(f32_gflops: f64) -> Roofs {
    Roofs {
        cpu: "test".to_owned(),
        cores: 2,
        isa: "avx2".to_owned(),
        gflops: [("f32", 1.0), ("bf16", 1.0), ("int16", 2.0), ("int8", 1.0)]
            .map(|(name, times)| (name.to_owned(), times * f32_gflops))
            .into(),
        read_gb_per_s: 20.0,
        measured: "2026-11-20T00:00:00Z".to_owned(),
    }
}

#[test]
fn the_processor_is_known() {
    let cpu = cpu::probe(Isa::best());
    assert!(!cpu.name.is_empty() && cpu.cores >= 1, "{cpu:?}");
    let has = |feature: &str| cpu.features.iter().any(|f| f == feature);
    // The tile unit comes with AVX-512 on every processor that has one.
    let is_wide = cpu.isa.name().starts_with("avx512") || cpu.isa.name() == "amx";
    assert_eq!(has("avx512f"), is_wide, "{cpu:?}");
    assert_eq!(cpu::probe(Isa::Generic).isa, Isa::Generic, "the instruction set is the caller's choice");
}

#[test]
fn device_names_read_back_as_they_are_written() {
    let requests = [
        DeviceRequest::Auto,
        DeviceRequest::Cpu,
        DeviceRequest::Gpu,
        DeviceRequest::Cuda(None),
        DeviceRequest::Cuda(Some(3)),
        DeviceRequest::Vulkan(None),
        DeviceRequest::Vulkan(Some(0)),
        DeviceRequest::Metal,
    ];
    for request in requests {
        assert_eq!(request.to_string().parse(), Ok(request));
    }
    for text in
        ["", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:4294967296", "cpu:0", "auto:1", "tpu"]
    {
        let error = text.parse::<DeviceRequest>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{text}` is no device")), "{error}");
    }
}

#[test]
fn auto_and_cpu_give_the_cpu_and_all_else_is_refused() {
    let cpu = cpu::probe(Isa::best());
    for request in [DeviceRequest::Auto, DeviceRequest::Cpu] {
        let verdict = resolve(request, &cpu).unwrap();
        assert_eq!(verdict.requested, request.to_string());
        assert_eq!((verdict.used.as_str(), verdict.verdict), ("cpu", Placement::Cpu));
        assert_eq!(verdict.witnesses[0].kind, WitnessKind::Engine);
    }
    for text in ["gpu", "cuda", "cuda:1", "vulkan", "vulkan:0", "metal"] {
        let error = resolve(text.parse().unwrap(), &cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("--device {text}: this build has no such device; it drives: cpu")
        );
        assert!(error.hint().contains("--device cpu"));
    }
}

#[test]
fn a_verdict_serialises_as_the_receipt_says() {
    let verdict = resolve(DeviceRequest::Auto, &cpu_named("Chip")).unwrap();
    let json = serde_json::to_value(&verdict).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["requested", "used", "name", "isa", "verdict", "witnesses", "fallback_from"]);
    assert_eq!(json["verdict"], "cpu");
    assert_eq!(json["witnesses"][0]["kind"], "engine");
    assert!(json["fallback_from"].is_null());
    assert_eq!(serde_json::to_value(Placement::OnDevice).unwrap(), "on_device");
    assert_eq!(serde_json::from_value::<Verdict>(json).unwrap(), verdict);
}

#[test]
fn a_verdict_line_fits_the_terminal_whatever_the_processor_is_called() {
    for name in ["Chip", "", &"Very Long Name ".repeat(20), &"\u{f6}".repeat(200)] {
        for request in [DeviceRequest::Auto, DeviceRequest::Cpu] {
            let line = resolve(request, &cpu_named(name)).unwrap().line();
            assert!(line.chars().count() <= 79 && !line.contains('\n'), "{line}");
        }
    }
    let line = resolve(DeviceRequest::Auto, &cpu_named("Chip")).unwrap().line();
    assert!(line.starts_with("device: cpu Chip, ") && line.ends_with(" (asked for: auto)"), "{line}");
}

#[test]
fn a_measured_rate_is_a_witness_and_one_above_the_roof_is_a_contradiction() {
    let in_dtype = |gflops, dtype| {
        let verdict = resolve(DeviceRequest::Cpu, &cpu_named("Chip")).unwrap();
        verdict.with_measured_rate(gflops, dtype, &roofs_of(400.0))
    };
    let with = |gflops| in_dtype(gflops, Dtype::F32);
    let usual = with(180.0);
    assert_eq!((usual.verdict, usual.witnesses.len()), (Placement::Cpu, 2));
    assert_eq!((usual.witnesses[1].kind, usual.witnesses[1].says.as_str()), (WitnessKind::Roof, "cpu"));
    assert!(usual.witnesses[1].detail.contains("45.0 % of 400.0 GFLOP/s"), "{:?}", usual.witnesses[1]);
    assert_eq!(with(450.0).verdict, Placement::Cpu, "the roof is known to 10 %");
    assert_eq!(in_dtype(900.0, Dtype::Int16).verdict, Placement::Cpu, "each dtype has a roof of its own");
    let half = in_dtype(400.0, Dtype::Int16).witnesses.remove(1).detail;
    assert!(half.contains("50.0 % of 800.0 GFLOP/s, the measured int16 roof"), "{half}");
    for impossible in [900.0, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let verdict = with(impossible);
        assert_eq!(verdict.verdict, Placement::Unknown, "{impossible}");
        assert_eq!(verdict.witnesses[1].says, "unknown");
    }
}
