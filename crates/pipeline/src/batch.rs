//! The one queue in front of the device: many producers, two lanes, batches cut by a token budget.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who waits for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits for the answer: served before any bulk item.
    Interactive,
    /// Part of a long job.
    Bulk,
}

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sum of tokens; a single longer item is a batch of its own.
    pub tokens: usize,
    /// Number of items.
    pub items: usize,
}

/// Items waiting for the device, with their tokens.
///
/// Batches take items in arrival order, the interactive lane first, as many as fit in the budget; inside a
/// batch the longest comes first. Producers wait while more than `capacity_tokens` are queued, so memory
/// stays bounded whatever the producers do.
pub struct TokenQueue<T> {
    state: Mutex<State<T>>,
    room: Condvar,
    work: Condvar,
    capacity_tokens: usize,
}

struct State<T> {
    interactive: VecDeque<Queued<T>>,
    bulk: VecDeque<Queued<T>>,
    tokens: usize,
    closed: bool,
}

struct Queued<T> {
    tokens: usize,
    item: T,
}

/// The queue was closed: nobody takes batches from it any more.
#[derive(Debug, thiserror::Error)]
#[error("the token queue is closed")]
pub struct Closed;

impl<T> TokenQueue<T> {
    /// An empty queue that holds at most `capacity_tokens`, or one item that is longer.
    #[must_use]
    pub fn new(capacity_tokens: usize) -> Self {
        let state = State { interactive: VecDeque::new(), bulk: VecDeque::new(), tokens: 0, closed: false };
        Self { state: Mutex::new(state), room: Condvar::new(), work: Condvar::new(), capacity_tokens }
    }

    /// Adds an item of `tokens` tokens, waiting while the queue is full.
    ///
    /// # Errors
    /// [`Closed`] after [`TokenQueue::close`]; the item is dropped.
    pub fn push(&self, lane: Lane, tokens: usize, item: T) -> Result<(), Closed> {
        let mut state = self.lock();
        while !state.closed && state.tokens > 0 && state.tokens + tokens > self.capacity_tokens {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        state.tokens += tokens;
        let queued = Queued { tokens, item };
        match lane {
            Lane::Interactive => state.interactive.push_back(queued),
            Lane::Bulk => state.bulk.push_back(queued),
        }
        self.work.notify_one();
        Ok(())
    }

    /// The next batch, waiting for at least one item; `None` once the queue is closed and empty.
    pub fn next_batch(&self, limits: BatchLimits) -> Option<Vec<T>> {
        let mut state = self.lock();
        while state.is_empty() && !state.closed {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.take(&mut state, limits)
    }

    /// The next batch if anything is queued; never waits.
    pub fn batch_if_any(&self, limits: BatchLimits) -> Option<Vec<T>> {
        self.take(&mut self.lock(), limits)
    }

    /// No more items will come. What is queued is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    fn take(&self, state: &mut State<T>, limits: BatchLimits) -> Option<Vec<T>> {
        let mut batch = Vec::new();
        let mut tokens = 0;
        while batch.len() < limits.items.max(1) {
            let Some(lane) = state.next_lane() else { break };
            if !batch.is_empty() && lane.front().is_some_and(|next| tokens + next.tokens > limits.tokens) {
                break;
            }
            let Some(queued) = lane.pop_front() else { break };
            tokens += queued.tokens;
            batch.push(queued);
        }
        if batch.is_empty() {
            return None;
        }
        state.tokens -= tokens;
        self.room.notify_all();
        // Stable, so equal lengths keep their arrival order.
        batch.sort_by_key(|queued| std::cmp::Reverse(queued.tokens));
        Some(batch.into_iter().map(|queued| queued.item).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty()
    }

    fn next_lane(&mut self) -> Option<&mut VecDeque<Queued<T>>> {
        [&mut self.interactive, &mut self.bulk].into_iter().find(|lane| !lane.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    const WIDE: BatchLimits = BatchLimits { tokens: 100, items: 100 };

    fn filled(items: &[(Lane, usize)]) -> TokenQueue<usize> {
        let queue = TokenQueue::new(usize::MAX);
        for (n, (lane, tokens)) in items.iter().enumerate() {
            queue.push(*lane, *tokens, n).expect("open");
        }
        queue
    }

    #[test]
    fn interactive_items_leave_first_and_the_longest_leads() {
        let queue = filled(&[(Lane::Bulk, 60), (Lane::Bulk, 30), (Lane::Interactive, 5), (Lane::Bulk, 90)]);
        assert_eq!(queue.next_batch(WIDE), Some(vec![0, 1, 2]));
        assert_eq!(queue.next_batch(WIDE), Some(vec![3]));
        assert_eq!(queue.batch_if_any(WIDE), None);
    }

    #[test]
    fn an_item_over_the_budget_is_a_batch_of_its_own() {
        let queue = filled(&[(Lane::Bulk, 500), (Lane::Bulk, 1)]);
        assert_eq!(queue.next_batch(WIDE), Some(vec![0]));
        assert_eq!(queue.next_batch(WIDE), Some(vec![1]));
    }

    #[test]
    fn a_full_queue_makes_the_producer_wait_and_closing_frees_it() {
        let queue = Arc::new(TokenQueue::new(10));
        queue.push(Lane::Bulk, 10, 0).expect("open");
        let producer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(Lane::Bulk, 1, 1)
        });
        thread::sleep(Duration::from_millis(30));
        assert!(!producer.is_finished(), "the producer must wait for room");
        queue.close();
        assert!(producer.join().expect("no panic").is_err());
        assert_eq!(queue.next_batch(WIDE), Some(vec![0]), "what was queued is handed out after close");
        assert_eq!(queue.next_batch(WIDE), None);
    }

    proptest! {
        #[test]
        fn every_item_leaves_once_and_no_batch_breaks_its_limits(
            tokens in prop::collection::vec(1_usize..60, 0..60), budget in 1_usize..120, items in 1_usize..8,
        ) {
            let queue = filled(&tokens.iter().map(|t| (Lane::Bulk, *t)).collect::<Vec<_>>());
            queue.close();
            let mut seen = Vec::new();
            while let Some(batch) = queue.next_batch(BatchLimits { tokens: budget, items }) {
                let sum: usize = batch.iter().map(|n| tokens[*n]).sum();
                prop_assert!(batch.len() <= items && (sum <= budget || batch.len() == 1));
                prop_assert!(batch.is_sorted_by_key(|n| std::cmp::Reverse(tokens[*n])));
                seen.extend(batch);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tokens.len()).collect::<Vec<_>>());
        }
    }
}
