//! Batch policies compared in virtual time: no clock is read and nothing is measured, so that a busy machine
//! cannot touch the figures, and the same seed gives the same figures everywhere.
//!
//! What decides here is `skysail-core` itself, the code that the frontend runs: its waiting rooms,
//! its dispatchers, its latency model and its policies. Only the world around them is made up. In reading order:
//!
//! - [`arguments`]: what is typed, and the cells that are to be simulated.
//! - [`scenario`]: a model, its replicas, and the queries they are offered.
//! - [`arrivals`], [`trace`]: when queries come.
//! - [`cost`], [`shape`], [`inputs`], [`noise`]: what a batch takes.
//! - [`simulation`]: the replicas and their waiting room, event by event, to one outcome for each query.
//! - `sharing`: several frontends that share the replicas by credits, message by message.
//! - `scaling`: a number of replicas that follows the load.
//! - [`bound`]: the goodput that no policy can exceed; [`noise_aware`]: that none can where batch times vary.
//! - [`policy`]: who decides; [`natural`] and [`mod@reference`] are policies that only this simulator has.
//! - [`cell`]: a policy in a scenario, many of them at once.
//! - [`suite`]: the scenarios that policies are judged by.
//! - [`search`]: scenarios at random, for those in which the learned policy is behind.
//! - [`report`]: the figures, as tables and as JSON.

#![warn(missing_docs)]

pub mod arguments;
pub mod arrivals;
pub mod bound;
pub mod cell;
pub mod cost;
pub mod inputs;
pub mod natural;
pub mod noise;
pub mod noise_aware;
pub mod policy;
pub mod reference;
pub mod report;
mod scaling;
pub mod scenario;
pub mod search;
pub mod shape;
mod sharing;
pub mod simulation;
pub mod suite;
pub mod trace;
