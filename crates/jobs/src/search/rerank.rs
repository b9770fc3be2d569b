//! Re-ranking by ColBERT: the best passages are embedded again, token by token, and compared with the question token by
//! token. The token rows are not stored: they would be close to a megabyte a chunk.

use haul_encoder::device::Vectors;

use super::{Answer, Question, SearchError, Searcher};

/// Passages that are re-ranked: as many forwards of the model are made for a question.
pub const RERANKED: usize = 10;

impl Searcher {
    /// As [`Searcher::search`], the first [`RERANKED`] passages in the order of their ColBERT scores, which take the
    /// place of their own. The model must be loaded with its ColBERT head.
    ///
    /// # Errors
    /// As for a search; more passages than are re-ranked; a model without the head.
    pub fn search_reranked(&self, text: &str, question: &Question) -> Result<Answer, SearchError> {
        if question.limit > RERANKED {
            return Err(SearchError::TooManyReranked { limit: question.limit });
        }
        let wide = Question { limit: RERANKED, ..question.clone() };
        let mut answer = self.search(text, &wide)?;
        let settings = self.source.settings();
        let asked = self.token_rows(&settings.query_prompt, text)?;
        let hits = &mut answer.outcome.hits;
        for hit in hits.iter_mut() {
            hit.score = max_sim(&asked, &self.token_rows(&settings.document_prompt, &hit.text)?);
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.point_id.cmp(&b.point_id)));
        hits.truncate(question.limit);
        Ok(answer)
    }

    fn token_rows(&self, prompt: &str, text: &str) -> Result<Vectors, SearchError> {
        let (outputs, _) = self.outputs(prompt, text)?;
        outputs.colbert.into_iter().flatten().next().ok_or(SearchError::NoColbert)
    }
}

/// Mean over the rows of the question of the largest dot product with a row of the passage, as bge-m3's
/// `compute_score` has it; 0 where either has no rows. Rows have length 1.
fn max_sim(question: &Vectors, passage: &Vectors) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    if question.rows() == 0 || passage.rows() == 0 {
        return 0.0;
    }
    let best = question
        .iter()
        .map(|token| passage.iter().map(|other| dot(token, other)).fold(f64::NEG_INFINITY, f64::max));
    best.sum::<f64>() / question.rows() as f64
}
