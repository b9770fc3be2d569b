//! The loop over batches: prefixes of the next images are under way while passes over these are computed.

use std::collections::VecDeque;
use std::slice::Chunks;
use std::sync::Arc;

use haul_corpus::pixels::{Hash, PixelCache};
use haul_encoder::device::{Pass, State, Ticket, Vectors};
use haul_encoder::model::vision::Site;
use haul_encoder::vision::{ImageEncoder, Levels, PrefixTicket};
use haul_kernels::perturb::Perturbation;
use haul_pipeline::journal::State as Entry;

use super::super::statistics::passes::Passes;
use super::rounding::Sample;
use super::stopping::Enough;
use super::unit::{Series, Unit};
use super::{AUDIT_STRENGTH, AUDIT_TRIAL, Image, McError, Outcome, Parts, Run, Todo, audited};

/// Images whose prefixes are computed in one batch, at most.
const GROUP_MAX: usize = 64;
/// Bytes of passes that are held while images of a group are measured.
pub(super) const HELD_BYTES_MAX: usize = 256 << 20;

/// Computes all that is missing, or until a stop is asked for; `untried` sites are tried on the first image, and what is
/// compared with f32 stays in `sample`.
pub(super) fn run(
    run: &Run<'_>,
    encoder: &ImageEncoder,
    todo: &[Todo],
    untried: &[Site],
    sample: &mut Sample,
    parts: &mut Parts<'_>,
    outcome: &mut Outcome,
) -> Result<(), McError> {
    let meter = parts.stages.meter("passes");
    let levels = run.tower.levels();
    let group = group(run);
    let mut flights = Flights {
        run,
        encoder,
        parts,
        outcome,
        untried,
        sample,
        flying: VecDeque::new(),
        open: VecDeque::new(),
        closed: 0,
    };
    let mut groups = todo.chunks(group);
    let mut ahead = VecDeque::new();
    flights.begin(&mut groups, &mut ahead, &levels)?;
    while let Some((images, prefix)) = ahead.pop_front() {
        let state = Arc::new(encoder.collect_prefix(prefix)?);
        flights.begin(&mut groups, &mut ahead, &levels)?;
        flights.over(images, &state)?;
        meter.finished(images.len() as u64);
        if flights.parts.stop.requested() {
            break;
        }
    }
    for (_, prefix) in ahead {
        encoder.collect_prefix(prefix)?;
    }
    flights.land_all()?;
    let wanted: usize = todo.iter().map(|todo| todo.series.len()).sum();
    flights.outcome.interrupted = flights.closed < wanted;
    Ok(())
}

/// Batches that are under way, and series that have not all of their passes.
struct Flights<'a, 'p> {
    run: &'a Run<'a>,
    encoder: &'a ImageEncoder,
    parts: &'a mut Parts<'p>,
    outcome: &'a mut Outcome,
    /// Sites that are tried on the first image of the first group.
    untried: &'a [Site],
    sample: &'a mut Sample,
    flying: VecDeque<Flight>,
    open: VecDeque<Open>,
    /// Series that have all of their passes.
    closed: usize,
}

/// A batch.
struct Flight {
    ticket: Ticket,
    of: Of,
}

/// What the rows of a batch are.
enum Of {
    /// Passes of series, one after the other.
    Series,
    /// Features without dropout, of these images.
    Stills(Vec<Hash>),
    /// The feature of an image under each of these sites alone.
    Sites(Hash, Vec<Site>),
}

/// A series over an image. Series are begun and finished in the same order.
struct Open {
    hash: Hash,
    /// Its place in the state.
    image: usize,
    series: Series,
    still: Vec<f32>,
    features: Vec<f32>,
    /// Passes that have been asked for.
    begun: usize,
}

impl Flights<'_, '_> {
    /// Enqueues prefixes until as many are ahead as keep the device busy: with one, every thread but that one waits for
    /// the first, and where passes are few or threads many, for all of them.
    fn begin<'t>(
        &mut self,
        groups: &mut Chunks<'t, Todo>,
        ahead: &mut VecDeque<(&'t [Todo], PrefixTicket)>,
        levels: &Levels,
    ) -> Result<(), McError> {
        while ahead.len() < self.encoder.batches_in_flight() {
            let Some(images) = groups.next() else { break };
            let mut all = vec![];
            for todo in images {
                all.extend(pixels(self.parts.cache, &todo.hash)?);
            }
            self.make_room()?;
            ahead.push_back((images, self.encoder.submit_prefix(&all, levels)?));
            self.outcome.flops += self.encoder.flops_of_prefix() * images.len() as u64;
            self.outcome.prefixes += images.len() as u64;
        }
        Ok(())
    }

    /// All that is missing of a group, or what is begun when a stop is asked for.
    fn over(&mut self, images: &[Todo], state: &Arc<State>) -> Result<(), McError> {
        self.stills(images, state)?;
        self.try_sites(images, state)?;
        if self.run.settings.enough.is_some() {
            return self.until_enough(images, state);
        }
        let mut batch = vec![];
        for (image, todo) in images.iter().enumerate() {
            for series in &todo.series {
                self.open(todo.hash, image, series, series.passes)?;
                for pass in 0..series.passes {
                    let mask = self.run.mask(&todo.hash, series.number, pass);
                    batch.push(Pass { image, mask, only: None });
                    if batch.len() < self.run.settings.batch {
                        continue;
                    }
                    self.submit(state, std::mem::take(&mut batch))?;
                    if self.parts.stop.requested() {
                        return Ok(());
                    }
                }
            }
            self.parts.progress.done(1, 0);
        }
        if batch.is_empty() { Ok(()) } else { self.submit(state, batch) }
    }

    /// One trial of all images at a time, each until it is measured well enough.
    fn until_enough(&mut self, images: &[Todo], state: &Arc<State>) -> Result<(), McError> {
        for series in self.run.settings.series() {
            for (image, todo) in images.iter().enumerate().filter(|(_, todo)| todo.series.contains(&series)) {
                self.open(todo.hash, image, &series, 0)?;
            }
            while !self.open.is_empty() {
                for batch in self.next_looks().chunks(self.run.settings.batch) {
                    self.submit(state, batch.to_vec())?;
                    if self.parts.stop.requested() {
                        return Ok(());
                    }
                }
                self.land_all()?;
            }
        }
        self.parts.progress.done(images.len() as u64, 0);
        Ok(())
    }

    /// Passes over images that need more, up to where somebody looks at them again.
    fn next_looks(&mut self) -> Vec<Pass> {
        let mut passes = vec![];
        for Open { hash, image, series, begun, .. } in &mut self.open {
            let next = Enough::next_look(*begun, series.passes);
            let mask = |pass| self.run.mask(hash, series.number, pass);
            passes.extend((*begun..next).map(|pass| Pass { image: *image, mask: mask(pass), only: None }));
            *begun = next;
        }
        passes
    }

    fn open(&mut self, hash: Hash, image: usize, series: &Series, begun: usize) -> Result<(), McError> {
        let still = self.run.still(self.parts.journal, &hash)?.ok_or_else(|| damaged(&hash))?;
        self.open.push_back(Open { hash, image, series: series.clone(), still, features: vec![], begun });
        Ok(())
    }

    /// The features without dropout of those images that have none yet: passes at a rate of zero.
    fn stills(&mut self, images: &[Todo], state: &Arc<State>) -> Result<(), McError> {
        let missing = |todo: &&Todo| !todo.is_still_known;
        let hashes: Vec<Hash> = images.iter().filter(missing).map(|todo| todo.hash).collect();
        let of = |(image, todo): (usize, &Todo)| {
            (!todo.is_still_known).then(|| Pass { image, mask: self.run.mask(&todo.hash, 0, 0), only: None })
        };
        let passes: Vec<Pass> = images.iter().enumerate().filter_map(of).collect();
        if passes.is_empty() {
            return Ok(());
        }
        self.outcome.flops += self.encoder.flops_of_pass() * passes.len() as u64;
        let ticket = self.encoder.pass(state, passes, Perturbation::NOTHING)?;
        self.flying.push_back(Flight { ticket, of: Of::Stills(hashes) });
        // Series want them.
        self.land_all()
    }

    /// Tries sites on the first image, once: what is computed of it anyway is all that they need.
    fn try_sites(&mut self, images: &[Todo], state: &Arc<State>) -> Result<(), McError> {
        let (Some(first), sites) = (images.first(), std::mem::take(&mut self.untried)) else { return Ok(()) };
        for sites in sites.chunks(self.run.settings.batch) {
            self.make_room()?;
            let (passes, strongly) = site_passes(self.run, &first.hash, sites);
            let ticket = self.encoder.pass(state, passes, strongly)?;
            self.flying.push_back(Flight { ticket, of: Of::Sites(first.hash, sites.to_vec()) });
        }
        Ok(())
    }

    fn submit(&mut self, state: &Arc<State>, passes: Vec<Pass>) -> Result<(), McError> {
        self.make_room()?;
        let count = passes.len() as u64;
        let ticket = self.encoder.pass(state, passes, self.run.settings.perturbation)?;
        self.flying.push_back(Flight { ticket, of: Of::Series });
        self.outcome.passes += count;
        self.outcome.flops += self.encoder.flops_of_pass() * count;
        self.parts.progress.computed(count, count * self.run.tower.config.tokens() as u64);
        Ok(())
    }

    /// More batches than keep the device busy would only hold memory.
    fn make_room(&mut self) -> Result<(), McError> {
        while self.flying.len() >= self.encoder.batches_in_flight() {
            self.land()?;
        }
        Ok(())
    }

    fn land_all(&mut self) -> Result<(), McError> {
        while !self.flying.is_empty() {
            self.land()?;
        }
        Ok(())
    }

    /// Waits for the oldest batch.
    fn land(&mut self) -> Result<(), McError> {
        let Some(Flight { ticket, of }) = self.flying.pop_front() else { return Ok(()) };
        let rows = self.encoder.collect(ticket)?;
        match of {
            Of::Series => self.take(&rows),
            Of::Stills(hashes) => {
                for (hash, row) in hashes.iter().zip(rows.iter()) {
                    let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                    self.parts.journal.finish(&self.run.key("still", hash, ""), Entry::Done, &bytes, 0)?;
                }
                Ok(())
            }
            Of::Sites(hash, sites) => {
                let still = self.run.still(self.parts.journal, &hash)?.ok_or_else(|| damaged(&hash))?;
                let moved: Vec<f64> = rows.iter().map(|row| apart(row, &still)).collect();
                self.outcome.audit.extend(audited(&sites, &moved)?);
                Ok(())
            }
        }
    }

    /// Gives the features of passes to the series that they are of.
    fn take(&mut self, rows: &Vectors) -> Result<(), McError> {
        self.parts.progress.done(0, rows.rows() as u64);
        for row in rows.iter() {
            // The first that lacks passes is the one that this row is of: batches land in their order.
            let at =
                self.open.iter().position(Open::lacks_passes).expect("a row is of a series that is open");
            self.open[at].features.extend_from_slice(row);
            if !self.open[at].lacks_passes() && self.open[at].is_done(self.run.settings.enough) {
                self.close(at)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, at: usize) -> Result<(), McError> {
        let Open { hash, series, still, features, begun, .. } =
            self.open.remove(at).expect("a series that is open");
        self.parts.progress.skipped(0, (series.passes - begun) as u64);
        self.sample.keep(hash, series.number, &features, self.run.tower.dim());
        let unit = Unit::of(&features, &still, &series, self.run.settings.keep);
        let key = self.run.unit_key(&series, &hash);
        self.closed += 1;
        Ok(self.parts.journal.finish(&key, Entry::Done, &unit.to_bytes(), 0)?)
    }
}

impl Open {
    fn lacks_passes(&self) -> bool {
        self.features.len() < self.begun * self.still.len()
    }

    /// Whether no more passes are needed than those that it has.
    fn is_done(&self, enough: Option<Enough>) -> bool {
        let trace = || {
            let features: Vec<f64> = self.features.iter().map(|&x| f64::from(x)).collect();
            Passes { features: &features, dim: self.still.len() }.trace()
        };
        self.begun == self.series.passes || enough.is_some_and(|enough| enough.is_reached(trace()))
    }
}

/// Images whose prefixes are computed at once.
pub(super) fn group(run: &Run<'_>) -> usize {
    let group = run.settings.batch.clamp(1, GROUP_MAX);
    let of_image = run.settings.longest() * run.tower.dim() * size_of::<f32>();
    match run.settings.enough {
        // Passes of a trial over all of them are held until the last is measured.
        Some(_) => group.min(HELD_BYTES_MAX / of_image.max(1)).max(1),
        None => group,
    }
}

/// How far each site alone moves the feature of an image, over its length.
pub(super) fn audit(
    run: &Run<'_>,
    encoder: &ImageEncoder,
    sites: &[Site],
    image: &Image,
    parts: &mut Parts<'_>,
) -> Result<Vec<f64>, McError> {
    let state = Arc::new(encoder.prefix(&pixels(parts.cache, &image.hash)?, &run.tower.levels())?);
    let pass = Pass { image: 0, mask: run.mask(&image.hash, AUDIT_TRIAL, 0), only: None };
    let still = encoder.collect(encoder.pass(&state, vec![pass], Perturbation::NOTHING)?)?.into_values();
    let (passes, strongly) = site_passes(run, &image.hash, sites);
    let features = all_passes(encoder, &state, &passes, strongly, run.settings.batch)?;
    Ok(features.chunks_exact(still.len()).map(|feature| apart(feature, &still)).collect())
}

/// A pass under each site alone, and how strongly it is perturbed.
fn site_passes(run: &Run<'_>, hash: &Hash, sites: &[Site]) -> (Vec<Pass>, Perturbation) {
    let strongly = run.settings.kind.of(AUDIT_STRENGTH).expect("every kind has this strength");
    let of_site = |&site: &Site| Pass {
        image: 0,
        mask: run.audit_mask(hash, site, strongly),
        only: Some(site.number()),
    };
    (sites.iter().map(of_site).collect(), strongly)
}

/// The features of passes, in batches that are all enqueued before the first is waited for, so that no thread waits.
pub(super) fn all_passes(
    encoder: &ImageEncoder,
    state: &Arc<State>,
    passes: &[Pass],
    perturbation: Perturbation,
    batch: usize,
) -> Result<Vec<f32>, McError> {
    let tickets = passes.chunks(batch).map(|passes| encoder.pass(state, passes.to_vec(), perturbation));
    let tickets = tickets.collect::<Result<Vec<_>, _>>()?;
    let mut features = vec![];
    for ticket in tickets {
        features.extend(encoder.collect(ticket)?.into_values());
    }
    Ok(features)
}

/// The distance of two features over the length of the second.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let distance: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let length: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    distance.sqrt() / length.sqrt().max(1e-12)
}

/// The pixels of an image that was gathered.
pub(super) fn pixels(cache: &mut PixelCache, hash: &Hash) -> Result<Vec<u8>, McError> {
    let mut pixels = vec![];
    match cache.read(hash, &mut pixels)? {
        true => Ok(pixels),
        false => Err(damaged(hash)),
    }
}

fn damaged(hash: &Hash) -> McError {
    McError::Damaged { hash: blake3::Hash::from(*hash).to_hex().to_string() }
}
