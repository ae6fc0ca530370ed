//! Batches: many operations in one request.
//!
//! Each operation succeeds or fails by itself, so each is judged by itself: those that a member surely did not carry
//! out go to another one, and the others' outcomes stay. So a batch of increments counts each once although
//! the member that it was sent to first is about to go.

use super::answer::{RawAnswer, completed};
use super::failover::{Attempts, Nature, Request};
use super::values::WriteOptions;
use super::{Client, ClientError};
use crate::model::Timestamp;
use crate::model::settings::Level;
use crate::node::handle::documents::{Ending, Entry, Outcome, Outcomes, Verb};
use reqwest::Method;

impl Client {
    /// Carries out operations; the outcomes are in their order. Those on one key take effect in their order, as far as none
    /// had to be tried again, those on different keys in any.
    ///
    /// # Errors
    /// [`ClientError`]; what happened to single operations is in the outcomes. Those that a member surely did
    /// not carry out are tried at others, and again.
    pub async fn batch(
        &self,
        operations: &[Entry],
        level: Option<Level>,
    ) -> Result<Vec<Outcome>, ClientError> {
        self.send_batch(operations, level, None).await
    }

    pub(super) async fn batch_of_one(
        &self,
        operation: Entry,
        options: &WriteOptions,
    ) -> Result<Outcome, ClientError> {
        let reads = operation.op == Some(Verb::Get);
        let level = options.level.or(if reads { self.read_level } else { self.write_level });
        let mut outcomes = self.send_batch(&[operation], level, options.after).await?;
        completed(outcomes.pop().ok_or_else(|| self.foreign(&"no outcome"))?)
    }

    async fn send_batch(
        &self,
        operations: &[Entry],
        level: Option<Level>,
        after: Option<Timestamp>,
    ) -> Result<Vec<Outcome>, ClientError> {
        let reads = operations.iter().all(|operation| operation.op == Some(Verb::Get));
        let nature = if reads { Nature::Read } else { Nature::Change };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; operations.len()];
        let mut left: Vec<(usize, &Entry)> = operations.iter().enumerate().collect();
        let mut attempts = Attempts::new(self, nature);
        while let Some(member) = attempts.next().await {
            let request = self.following(self.batch_request(nature, &left, level)?, after);
            let asked = self.ask_at(member, &request, attempts.time()).await;
            let told = match asked.and_then(|answer| outcomes_in(&answer, left.len())) {
                Ok(told) => told,
                Err(error) => match attempts.failed(member, error) {
                    Ok(()) => continue,
                    Err(error) if left.len() == operations.len() => return Err(error),
                    // Of those that others carried out before, the outcomes are known.
                    Err(error) => {
                        left.iter().for_each(|(at, _)| place(&mut outcomes, *at, failed(&error)));
                        break;
                    }
                },
            };
            let mut refusal = None;
            let mut again = Vec::new();
            for ((at, operation), outcome) in left.into_iter().zip(told) {
                self.note_text(outcome.timestamp.as_ref());
                if let Err(error) = completed(outcome.clone())
                    && attempts.passes(&error)
                {
                    again.push((at, operation));
                    refusal.get_or_insert(error);
                }
                place(&mut outcomes, at, outcome);
            }
            left = again;
            match refusal {
                None => break,
                Some(error) => attempts.failed(member, error)?,
            }
        }
        let told: Option<Vec<Outcome>> = outcomes.into_iter().collect();
        told.ok_or_else(|| attempts.give_up())
    }

    fn batch_request(
        &self,
        nature: Nature,
        operations: &[(usize, &Entry)],
        level: Option<Level>,
    ) -> Result<Request, ClientError> {
        let mut body = Vec::new();
        for (_, operation) in operations {
            serde_json::to_writer(&mut body, operation).map_err(|error| self.foreign(&error))?;
            body.push(b'\n');
        }
        let query = level.map_or_else(String::new, |level| format!("?consistency={level}"));
        Ok(Request::new(nature, Method::POST, format!("/v1/batch{query}")).body(body))
    }
}

fn place(outcomes: &mut [Option<Outcome>], at: usize, outcome: Outcome) {
    if let Some(place) = outcomes.get_mut(at) {
        *place = Some(outcome);
    }
}

/// What is told of an operation whose request failed.
fn failed(error: &ClientError) -> Outcome {
    let code = if error.is_of_unknown_fate() { "unknown" } else { error.code() };
    Outcome { error: Some(code.to_owned()), message: Some(error.to_string()), ..Outcome::new(Ending::Failed) }
}

fn outcomes_in(answer: &RawAnswer, operations: usize) -> Result<Vec<Outcome>, ClientError> {
    let outcomes = answer.json::<Outcomes>()?.results;
    if outcomes.len() == operations {
        return Ok(outcomes);
    }
    Err(answer.foreign(&format!("{} outcomes of {operations} operations", outcomes.len())))
}
