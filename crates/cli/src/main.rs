//! `troupe`: plays role-play models, judges what they say, and trains them.
//!
//! This file reads the command line and hands over; a command is a file of its name.
//! Results go to standard output or `--out`, everything else to standard error. Exit
//! codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod fail;
mod interrupt;
mod model_args;
mod sampling_args;
mod rows;
mod quickstart;
mod chat;
mod play;
mod generate;
mod tokenize;
mod score;
mod bench;
mod doctor;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Local inference and RLHF training for role-play models.
#[derive(Parser)]
#[command(name = "troupe", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Chat(chat::ChatArgs),
    Play(play::PlayArgs),
    Generate(generate::GenerateArgs),
    Tokenize(tokenize::TokenizeArgs),
    Score(score::ScoreArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    let outcome = match cli.command {
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Play(args) => play::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match outcome {
        Ok(()) if interrupt::requested() => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail::report(&error),
    }
}
