//! Which of the engine's devices a run uses, decided before anything is loaded.

use haul_frames::{Device, DeviceKind, Hello};
use haul_machine::verdict::DeviceRequest;

/// A device was asked for that the engine does not see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--device {request}: the engine ({engine}) sees {seen}")]
pub struct DeviceAbsent {
    request: DeviceRequest,
    engine: String,
    seen: String,
    refused: Option<String>,
}

impl DeviceAbsent {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match &self.refused {
            Some(refused) => format!("a backend was found and not loaded: {refused}"),
            None => {
                "`./dev backend cuda` or `./dev backend vulkan` builds a backend where its toolkit is; `haul doctor` says what is here".to_owned()
            }
        }
    }
}

/// Indices of the devices that take the layers; none is the CPU alone.
///
/// # Errors
/// What was asked for by name is not there: nothing else is taken in its place.
pub fn select(request: DeviceRequest, hello: &Hello) -> Result<Vec<usize>, DeviceAbsent> {
    let of = |wanted: &dyn Fn(&Device) -> bool| -> Vec<usize> {
        hello.devices.iter().filter(|device| wanted(device)).map(|device| device.index).collect()
    };
    let is_gpu = |device: &Device| matches!(device.kind, DeviceKind::Gpu | DeviceKind::IntegratedGpu);
    let backend = |name: &'static str, nth: Option<u32>| {
        let all = of(&move |device| is_gpu(device) && device.backend.eq_ignore_ascii_case(name));
        match nth {
            None => all,
            Some(nth) => all.get(nth as usize).copied().into_iter().collect(),
        }
    };
    let found = match request {
        DeviceRequest::Cpu => return Ok(vec![]),
        // A card with memory of its own goes before one that shares the processor's.
        DeviceRequest::Auto => {
            let cards = of(&|device| device.kind == DeviceKind::Gpu);
            return Ok(if cards.is_empty() { of(&is_gpu) } else { cards });
        }
        DeviceRequest::Gpu => of(&is_gpu),
        DeviceRequest::Cuda(nth) => backend("CUDA", nth),
        DeviceRequest::Vulkan(nth) => backend("Vulkan", nth),
        DeviceRequest::Metal => backend("Metal", None),
    };
    if found.is_empty() {
        let seen: Vec<String> = hello.devices.iter().map(|d| format!("{} ({})", d.name, d.backend)).collect();
        let refused = hello
            .backends
            .iter()
            .find_map(|file| file.refused.as_ref().map(|why| format!("{}: {why}", file.path.display())));
        return Err(DeviceAbsent {
            request,
            engine: hello.engine.clone(),
            seen: if seen.is_empty() { "no device".to_owned() } else { seen.join(", ") },
            refused,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(devices: &[(&str, DeviceKind)]) -> Hello {
        let devices = devices.iter().enumerate().map(|(index, (backend, kind))| Device {
            index,
            name: format!("{backend}{index}"),
            description: String::new(),
            backend: (*backend).to_owned(),
            kind: *kind,
            memory_total_bytes: 0,
            memory_free_bytes: 0,
        });
        Hello {
            protocol: haul_frames::PROTOCOL,
            engine: "engine 1".to_owned(),
            features: String::new(),
            backends: vec![],
            devices: devices.collect(),
            can_offload: true,
        }
    }

    #[test]
    fn what_is_asked_for_by_name_is_taken_or_refused() {
        let both = hello(&[("CPU", DeviceKind::Cpu), ("CUDA", DeviceKind::Gpu), ("Vulkan", DeviceKind::Gpu)]);
        assert_eq!(select(DeviceRequest::Cuda(None), &both), Ok(vec![1]));
        assert_eq!(select(DeviceRequest::Vulkan(Some(0)), &both), Ok(vec![2]));
        assert_eq!(select(DeviceRequest::Cpu, &both), Ok(vec![]));
        let error = select(DeviceRequest::Cuda(Some(1)), &both).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--device cuda:1: the engine (engine 1) sees CPU0 (CPU), CUDA1 (CUDA), Vulkan2 (Vulkan)"
        );
        let alone = hello(&[("CPU", DeviceKind::Cpu)]);
        assert_eq!(select(DeviceRequest::Auto, &alone), Ok(vec![]));
        for request in [DeviceRequest::Gpu, DeviceRequest::Cuda(None), DeviceRequest::Metal] {
            assert!(select(request, &alone).is_err(), "{request}");
        }
    }

    #[test]
    fn auto_takes_cards_before_integrated_ones() {
        let both = hello(&[("Vulkan", DeviceKind::IntegratedGpu), ("CUDA", DeviceKind::Gpu)]);
        assert_eq!(select(DeviceRequest::Auto, &both), Ok(vec![1]));
        let one = hello(&[("CPU", DeviceKind::Cpu), ("Vulkan", DeviceKind::IntegratedGpu)]);
        assert_eq!(select(DeviceRequest::Auto, &one), Ok(vec![1]));
    }
}
