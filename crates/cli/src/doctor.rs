//! `troupe doctor`: what this program finds on this machine, and whether it computes right.

use crate::model_args::{isa, rayon_threads};
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::Args;
use serde_json::{Value, json};
use std::time::Instant;
use troupe_ops::{
    AttentionConfig, DeviceChoice, TreeLayout, Weight, linear, linear_ref, rms_norm, rms_norm_ref,
    swiglu, swiglu_ref, tree_attention, tree_attention_ref,
};

/// Say what this machine offers and check that the kernels compute right on it
#[derive(Args)]
#[command(after_help = "Examples:
  troupe doctor
  troupe doctor --json
  troupe doctor --device cuda:1")]
pub struct DoctorArgs {
    /// Check this device only; absent ones are an error then
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let choices = match args.device {
        Some(choice) => {
            choice.open()?;
            vec![choice]
        }
        None => vec![DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Metal],
    };
    let mut devices = Vec::new();
    let mut broken = Vec::new();
    for choice in choices {
        let found = match choice.open() {
            Err(error) => json!({ "device": choice.to_string(), "absent": error.to_string() }),
            Ok(device) => {
                let checks = self_test(&device)?;
                for (op, error) in &checks {
                    if *error > TOLERANCE {
                        broken.push(format!("{op} on {choice} is off by {error:.1e}"));
                    }
                }
                let rate = gemm_rate(&device)?;
                let checks: serde_json::Map<_, _> =
                    checks.into_iter().map(|(op, error)| (op.into(), json!(error))).collect();
                json!({ "device": choice.to_string(), "gflops": rate, "self_test": checks })
            }
        };
        devices.push(found);
    }
    let best = DeviceChoice::name_of(&DeviceChoice::Best.open()?);
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernels": isa(),
        "threads": rayon_threads(),
        "default_device": best,
        "devices": devices,
    });
    if args.json {
        println!("{report}");
    } else {
        print(&report);
    }
    if !broken.is_empty() {
        bail!("kernels disagree with their plain twins: {}", broken.join("; "));
    }
    Ok(())
}

fn print(report: &Value) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    println!("troupe {}", text(&report["version"]));
    println!("cpu kernels: {}, {} threads", text(&report["kernels"]), report["threads"]);
    for device in report["devices"].as_array().into_iter().flatten() {
        let name = text(&device["device"]);
        match &device["absent"] {
            Value::Null => {
                let rate = device["gflops"].as_f64().unwrap_or(0.0);
                println!("{name}: present, {rate:.0} GFLOP/s on a 512 x 1536 x 1536 product");
                for (op, error) in device["self_test"].as_object().into_iter().flatten() {
                    let error = error.as_f64().unwrap_or(f64::INFINITY);
                    let verdict = if error > TOLERANCE { "WRONG" } else { "ok" };
                    println!("  {op}: {verdict}, within {error:.1e} of its plain twin");
                }
            }
            reason => println!("{name}: absent ({})", text(reason)),
        }
    }
    println!("default device: {}", text(&report["default_device"]));
}

/// Largest difference that the self-test allows, on values near 1 in f32.
const TOLERANCE: f64 = 1e-4;

/// Each op against its plain twin: name and largest difference.
fn self_test(device: &Device) -> Result<Vec<(&'static str, f64)>> {
    let random = |shape: &[usize]| -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let value = |i: usize| ((i * 2_654_435_761) % 2000) as f32 / 1000.0 - 1.0;
        Ok(Tensor::from_vec((0..n).map(value).collect(), shape, device)?)
    };
    let (x, gate) = (random(&[37, 123])?, random(&[37, 123])?);
    let weight = Weight::dense((random(&[71, 123])? * 0.1)?)?;
    let norm = random(&[123])?;
    let layout = TreeLayout::sequences(&[3, 80])?;
    let (q, k, v) = (random(&[83, 6, 16])?, random(&[83, 2, 16])?, random(&[83, 2, 16])?);
    let config = AttentionConfig { scale: 0.25, window: Some(50), softcap: None };
    let difference = |a: Tensor, b: Tensor| -> Result<f64> {
        let largest = (a - b)?.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F32)?;
        Ok(f64::from(largest.to_scalar::<f32>()?))
    };
    Ok(vec![
        ("linear", difference(linear(&x, &weight, None)?, linear_ref(&x, &weight, None)?)?),
        ("rms_norm", difference(rms_norm(&x, &norm, 1e-5)?, rms_norm_ref(&x, &norm, 1e-5)?)?),
        ("swiglu", difference(swiglu(&x, &gate)?, swiglu_ref(&x, &gate)?)?),
        (
            "tree_attention",
            difference(
                tree_attention(&q, &k, &v, &layout, config)?,
                tree_attention_ref(&q, &k, &v, &layout, config)?,
            )?,
        ),
    ])
}

/// The rate of a large product, the best of five, in GFLOP/s.
fn gemm_rate(device: &Device) -> Result<f64> {
    let (m, n) = (512, 1536);
    let x = Tensor::ones((m, n), DType::F32, device)?;
    let weight = Weight::dense(Tensor::ones((n, n), DType::F32, device)?)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begun = Instant::now();
        linear(&x, &weight, None)?;
        device.synchronize()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok((2 * m * n * n) as f64 / best / 1e9)
}
