//! Role-play itself: characters, their world, and scenes in which one model plays
//! both the NPC and the User.
//!
//! This crate sees no tensor and no file format of models: it speaks to a
//! [`troupe_dialogue::ChatModel`]. Read [`card`] for characters, [`lorebook`] for their
//! world, [`macros`] for the placeholders in both; then [`scene`] and [`selfplay`].

pub mod card;
pub mod macros;
pub mod lorebook;
pub mod scene;
pub mod prompt;
pub mod selfplay;
pub mod session;
pub mod suggest;
