//! The flags of every command that loads a model, and the loading itself.

use crate::fail::WithHint;
use anyhow::{Context, Result};
use chrono::{Local, NaiveDate, NaiveTime};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;
use troupe_engine::{ChatTemplate, EngineConfig, LocalEngine, Model, WeightDtype};
use troupe_ops::DeviceChoice;
use troupe_ops::simd::Isa;

/// Which model, and where it computes.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// A folder with config.json, tokenizer.json and safetensors, or a .gguf file
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    #[command(flatten)]
    pub date: DateArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// The day that chat templates write into prompts.
#[derive(Args, Clone)]
pub struct DateArgs {
    /// The day for templates that write one into the prompt, as 2026-11-23 [default: today]
    #[arg(long, value_name = "DATE")]
    pub date: Option<NaiveDate>,
}

impl DateArgs {
    /// The template with the day set, as transformers has it. Midnight, so that a prompt
    /// does not change within a day.
    pub fn set(&self, template: ChatTemplate) -> ChatTemplate {
        let day = self.date.unwrap_or_else(|| Local::now().date_naive());
        if template.source().contains("strftime_now") {
            eprintln!("note: the chat template writes a date into prompts: {day} (see `--date`)");
        }
        template.with_now(day.and_time(NaiveTime::MIN))
    }
}

/// Where and in which precision to compute.
#[derive(Args, Clone)]
pub struct ComputeArgs {
    /// Weights in memory: f32, bf16, f16, or keep (as the file stores them)
    #[arg(long, default_value = "keep", value_name = "DTYPE")]
    pub dtype: WeightDtype,
    /// cpu, cuda, cuda:N or metal [default: the best present]
    #[arg(long, default_value = "best", hide_default_value = true, value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Processor threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// How much the engine holds.
#[derive(Args, Clone)]
pub struct EngineArgs {
    /// Most tokens of prompt and reply together [default: the model's, at most 8192]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Memory for keys and values, in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    pub cache_mib: usize,
}

impl ModelArgs {
    /// Loads the model and says on standard error what was loaded, and where to.
    pub fn load(&self) -> Result<Model> {
        self.compute.set_threads()?;
        let device = self.compute.device.open()?;
        let name = DeviceChoice::name_of(&device);
        let begun = Instant::now();
        let path = &self.model;
        let mut model = Model::load(path, self.compute.dtype, &device)
            .with_context(|| format!("cannot load `{}`", path.display()))?;
        model.template = model.template.map(|template| self.date.set(template));
        let transformer = &model.transformer;
        eprintln!(
            "model: {} ({:.1} M parameters, {}, {} MiB) loaded in {:.1} s",
            model.name,
            transformer.config().parameters() as f64 / 1e6,
            transformer.weight_format(),
            transformer.weight_bytes() >> 20,
            begun.elapsed().as_secs_f64(),
        );
        let detail = match name.as_str() {
            "cpu" => format!(" ({}, {} threads)", isa(), rayon_threads()),
            _ => String::new(),
        };
        eprintln!("device: {name}{detail}");
        for note in &model.notes {
            eprintln!("note: {note}");
        }
        Ok(model)
    }

    /// Loads the model into an engine.
    pub fn engine(&self, engine: &EngineArgs, max_batch: usize) -> Result<LocalEngine> {
        let model = self.load()?;
        let config = EngineConfig {
            context_tokens: engine.context,
            max_batch,
            cache_bytes: engine.cache_mib << 20,
            ..EngineConfig::default()
        };
        LocalEngine::new(model, config).hint("see `--context` and `--cache-mib`")
    }
}

impl ComputeArgs {
    /// Sizes the thread pool; must come before anything computes.
    pub fn set_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        if threads == 0 {
            anyhow::bail!("`--threads` is 0; expected at least 1");
        }
        troupe_ops::set_threads(threads).context("cannot set `--threads`")
    }
}

/// The instruction set of the CPU kernels, for people.
pub fn isa() -> &'static str {
    match Isa::get() {
        Isa::Avx512 => "AVX-512",
        Isa::Avx2 => "AVX2",
        Isa::Portable => "portable kernels",
    }
}

/// Threads that kernels use.
pub fn rayon_threads() -> usize {
    troupe_ops::threads()
}
