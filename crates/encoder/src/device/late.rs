//! A device for tests that is as unhelpful as the contract allows: nothing runs before somebody collects, and then
//! everything that waits runs, the last batch first.

use std::sync::Mutex;

use crate::device::{Batch, Completion, Device, DeviceError, LoadedModel, Memory, Outputs, Ticket, ticket};
use crate::program::Program;
use crate::weights::Weights;

struct LateDevice(Box<dyn Device>);

impl Device for LateDevice {
    fn name(&self) -> &str {
        "late"
    }

    fn load(&self, program: Program, weights: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError> {
        Ok(Box::new(LateModel { inner: self.0.load(program, weights)?, waiting: Mutex::default() }))
    }
}

struct LateModel {
    inner: Box<dyn LoadedModel>,
    waiting: Mutex<Vec<(Batch, Completion)>>,
}

impl LoadedModel for LateModel {
    fn submit(&self, batch: Batch) -> Result<Ticket, DeviceError> {
        let (completion, ticket) = ticket();
        self.waiting.lock().unwrap().push((batch, completion));
        Ok(ticket)
    }

    fn collect(&self, ticket: Ticket) -> Result<Outputs, DeviceError> {
        while let Some((batch, completion)) = self.waiting.lock().unwrap().pop() {
            completion.deliver(self.inner.collect(self.inner.submit(batch)?)?);
        }
        ticket.wait()
    }

    fn batches_in_flight(&self) -> usize {
        usize::MAX
    }

    fn memory(&self) -> Memory {
        self.inner.memory()
    }
}

mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use haul_kernels::dtype::Dtype;
    use haul_kernels::isa::Isa;

    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::reference::ReferenceDevice;
    use crate::device::{SparseVector, Vectors};
    use crate::embedder::{EmbedError, Embedder};
    use crate::model::Wanted;
    use crate::model_dir::ModelDir;

    fn tiny() -> ModelDir {
        ModelDir::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert")).unwrap()
    }

    fn wanted(model: &ModelDir) -> Wanted {
        Wanted {
            pooling: model.pooling.clone(),
            normalize: model.normalize,
            dim: None,
            heads: vec![],
            dropped_ids: vec![],
        }
    }

    fn cpu(threads: usize) -> CpuDevice {
        CpuDevice::new(Isa::best(), Dtype::F32, NonZeroUsize::new(threads).unwrap())
    }

    /// Sequences of made-up ids; the lengths are all over what the model reads.
    fn sequences(seed: u32, lengths: &[usize]) -> Vec<Vec<u32>> {
        let id = |row: usize, at: usize| (seed + 31 * row as u32 + 7 * at as u32) % 300;
        lengths.iter().enumerate().map(|(row, &n)| (0..n).map(|at| id(row, at)).collect()).collect()
    }

    #[test]
    fn rows_come_to_the_ticket_that_asked() {
        let embedder = Embedder::load(&tiny(), &LateDevice(Box::new(cpu(2)))).unwrap();
        let alone = Embedder::load(&tiny(), &cpu(1)).unwrap();
        let batches: Vec<_> = [&[5, 48, 1][..], &[2], &[48, 48, 3, 17], &[1, 1, 1, 1, 1, 40]]
            .iter()
            .zip(1..)
            .map(|(lengths, seed)| sequences(seed, lengths))
            .collect();
        let mut tickets: Vec<_> = batches.iter().map(|batch| Some(embedder.submit(batch).unwrap())).collect();
        for index in [2, 0, 3, 1] {
            let vectors = embedder.collect(tickets[index].take().unwrap()).unwrap();
            for (row, sequence) in vectors.iter().zip(&batches[index]) {
                let expected = alone.collect(alone.submit(&[sequence]).unwrap()).unwrap();
                assert_eq!(row, expected.row(0));
            }
        }
    }

    /// Each device fills its buffers with NaN before a batch in debug builds. Here the program lacks the operation
    /// that writes the hidden state, after a whole batch has left good numbers there.
    #[cfg(debug_assertions)]
    #[test]
    fn reading_what_nobody_wrote_shows() {
        let model = tiny();
        let weights = Weights::open(model.weights_file()).unwrap();
        let mut program = model.config.program(&weights, &wanted(&model)).unwrap();
        program.ops.remove(0);
        for device in [&cpu(1) as &dyn Device, &ReferenceDevice] {
            let broken = device.load(program.clone(), &weights).unwrap();
            let batch = Batch::pack(&sequences(1, &[4, 9])).unwrap();
            let rows = broken.collect(broken.submit(batch).unwrap()).unwrap();
            assert!(rows.dense.iter().all(|row| row.iter().all(|v| v.is_nan())), "{}", device.name());
        }
    }

    #[test]
    fn a_row_that_is_no_vector_is_named() {
        struct Fixed(Outputs);
        impl LoadedModel for Fixed {
            fn submit(&self, _: Batch) -> Result<Ticket, DeviceError> {
                let (completion, ticket) = ticket();
                completion.deliver(self.0.clone());
                Ok(ticket)
            }
            fn collect(&self, ticket: Ticket) -> Result<Outputs, DeviceError> {
                ticket.wait()
            }
            fn batches_in_flight(&self) -> usize {
                1
            }
            fn memory(&self) -> Memory {
                Memory { weights_bytes: 0, arena_bytes: 0 }
            }
        }
        struct FixedDevice(Outputs);
        impl Device for FixedDevice {
            fn name(&self) -> &str {
                "fixed"
            }
            fn load(&self, _: Program, _: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError> {
                Ok(Box::new(Fixed(self.0.clone())))
            }
        }
        let answers = |outputs: Outputs| {
            let embedder = Embedder::load(&tiny(), &FixedDevice(outputs)).unwrap();
            embedder.collect_all(embedder.submit(&[[2, 3]]).unwrap())
        };
        let answer = |values: &[f32]| {
            answers(Outputs { dense: Vectors::new(2, values), sparse: None, colbert: None, state: None })
        };
        assert!(answer(&[1.0, 0.0, -0.5, 2.0]).is_ok());
        assert!(matches!(answer(&[1.0, 0.0, -0.0, 0.0]), Err(EmbedError::ZeroNorm { row: 1 })));
        assert!(matches!(answer(&[1.0, f32::NAN]), Err(EmbedError::NotFinite { row: 0, column: 1, .. })));
        assert!(matches!(
            answer(&[1.0, 1.0, 1.0, 1.0, f32::NEG_INFINITY, 1.0]),
            Err(EmbedError::NotFinite { row: 2, column: 0, .. })
        ));
        let dense = || Vectors::new(1, &[1.0, 1.0]);
        let sparse = |weights: &[f32]| {
            let vector = SparseVector { ids: (7..).take(weights.len()).collect(), weights: weights.to_vec() };
            let empty = SparseVector { ids: vec![], weights: vec![] };
            answers(Outputs { dense: dense(), sparse: Some(vec![empty, vector]), colbert: None, state: None })
        };
        assert!(sparse(&[]).is_ok() && sparse(&[1.0, 2.0]).is_ok());
        assert!(matches!(
            sparse(&[1.0, f32::INFINITY]),
            Err(EmbedError::WeightNotFinite { row: 1, id: 8, .. })
        ));
        let colbert = |values: &[f32]| {
            let tokens = vec![Vectors::new(2, &[]), Vectors::new(2, values)];
            answers(Outputs { dense: dense(), sparse: None, colbert: Some(tokens), state: None })
        };
        assert!(colbert(&[1.0, 0.0]).is_ok());
        assert!(matches!(
            colbert(&[1.0, 0.0, f32::NAN, 0.0]),
            Err(EmbedError::TokenNotFinite { row: 1, token: 1, column: 0, .. })
        ));
        assert!(matches!(colbert(&[0.0, 0.0]), Err(EmbedError::TokenZeroNorm { row: 1, token: 0 })));
    }

    /// A worker used to die of a panic. The batch behind it then stayed in the queue, and its collector waited for ever.
    #[test]
    fn a_panic_takes_its_own_batch_only() {
        let model = tiny();
        let weights = Weights::open(model.weights_file()).unwrap();
        let program = model.config.program(&weights, &wanted(&model)).unwrap();
        let loaded = cpu(1).load(program, &weights).unwrap();
        let submit = |ids: &[u32]| loaded.submit(Batch::pack(&[ids]).unwrap()).unwrap();
        let before = loaded.collect(submit(&[2, 3])).unwrap();
        // An id beyond the word table; the embedder would have refused it.
        let (bad, good) = (submit(&[u32::MAX]), submit(&[2, 3]));
        assert!(matches!(loaded.collect(bad), Err(DeviceError::Lost)));
        assert_eq!(loaded.collect(good).unwrap(), before);
    }
}
