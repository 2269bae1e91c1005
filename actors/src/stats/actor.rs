//! Stats as a stage: one share of the sensors.

use std::sync::Arc;

use super::share::{Memory, Part, Share};
use crate::batch::Refusal;
use crate::message::Arrived;
use crate::supervise::{Failure, Stage};

impl<M: Memory + Unpin + Send + 'static> Stage for Share<M> {
    const NAME: &'static str = "stats";
    type In = Arrived;
    type Out = Part;
    type Job = fn();
    type Done = ();

    fn handle(&mut self, Arrived(batch): Arrived) -> Result<Option<Part>, Failure> {
        if !batch.is_current() {
            return Err(Refusal::Stale.into());
        }
        self.take(&Arc::clone(&batch))
            .map(Some)
            .map_err(|error| Refusal::Unavailable(crate::supervise::chain(&error)).into())
    }
}
