//! Picture, sound and text as rows of numbers. The defaults are part of the program, so that it runs in any folder.

use std::path::Path;

use image::{DynamicImage, imageops::FilterType};

use crate::Result;
use crate::model::{FRAME_LANES, PATCH, PATCH_LANES};

/// A dusk over water.
const PICTURE: &[u8] = include_bytes!("../assets/picture.png");
/// A rising chirp over two tones.
const SOUND: &[u8] = include_bytes!("../assets/sound.wav");
/// What is asked when nothing else is.
pub const PROMPT: &str = "Look at the picture, listen to the sound, and say what might come next.";

/// Most patches of the whole picture.
const MOST_PATCHES: u32 = 96;
/// Most patches of the second look.
const MOST_CROP_PATCHES: u32 = 24;
/// 25 frames a second.
const FRAMES_PER_SECOND: u32 = 25;
/// Half a minute of sound; the rest is not heard.
const MOST_FRAMES: usize = 30 * FRAMES_PER_SECOND as usize;

/// What the model is shown.
pub struct Inputs {
    /// `[n, PATCH_LANES]`.
    pub patches: Vec<f32>,
    /// The centre of the picture at the picture's own resolution, `[n, PATCH_LANES]`.
    pub crop: Vec<f32>,
    /// `[n, FRAME_LANES]`.
    pub frames: Vec<f32>,
    /// The prompt.
    pub text: Vec<u8>,
}

impl Inputs {
    /// Reads and cuts up everything.
    pub fn load(image: Option<&Path>, audio: Option<&Path>, prompt: &str) -> Result<Self> {
        if prompt.is_empty() {
            return Err("the prompt is empty: --prompt needs at least one character".into());
        }
        let (name, bytes) = file("image", image, PICTURE)?;
        let picture = image::load_from_memory(&bytes).map_err(|e| format!("{name} is no readable picture: {e}"))?;
        let (w, h) = (picture.width(), picture.height());
        let crop = picture.crop_imm(w / 4, h / 4, w.div_ceil(2), h.div_ceil(2));
        let (name, bytes) = file("sound", audio, SOUND)?;
        let frames = frames(&bytes).map_err(|e| format!("{name} is no readable sound: {e}"))?;
        Ok(Inputs {
            patches: patches(&picture, MOST_PATCHES),
            crop: patches(&crop, MOST_CROP_PATCHES),
            frames,
            text: prompt.as_bytes().to_vec(),
        })
    }

    /// Tokens of picture, sound and text.
    pub fn prompt_tokens(&self) -> usize {
        self.patches.len() / PATCH_LANES + self.frames.len() / FRAME_LANES + self.text.len()
    }

    /// Tokens of the second look.
    pub fn crop_tokens(&self) -> usize {
        self.crop.len() / PATCH_LANES
    }
}

/// The file's name for messages and its bytes.
fn file(what: &str, path: Option<&Path>, default: &[u8]) -> Result<(String, Vec<u8>)> {
    let Some(path) = path else { return Ok((format!("the built-in {what}"), default.to_vec())) };
    let name = format!("the {what} {}", path.display());
    let bytes = std::fs::read(path).map_err(|e| format!("{name} cannot be read: {e}"))?;
    Ok((name, bytes))
}

/// Resizes to at most `most` patches of about the same proportions, and cuts: RGB in -1..1, a patch per row.
fn patches(picture: &DynamicImage, most: u32) -> Vec<f32> {
    let (w, h) = (picture.width().max(1), picture.height().max(1));
    let columns = (f64::from(most) * f64::from(w) / f64::from(h)).sqrt().round() as u32;
    let columns = columns.clamp(1, most.min(w.div_ceil(PATCH as u32)));
    let rows = (most / columns).min(h.div_ceil(PATCH as u32));
    let side = PATCH as u32;
    let small = picture.resize_exact(columns * side, rows * side, FilterType::Triangle).to_rgb8();
    let mut out = Vec::new();
    for patch in 0..rows * columns {
        let (x0, y0) = (patch % columns * side, patch / columns * side);
        for y in y0..y0 + side {
            for x in x0..x0 + side {
                out.extend(small.get_pixel(x, y).0.map(|c| f32::from(c) / 127.5 - 1.0));
            }
        }
    }
    out
}

/// Frames of 40 ms. Each is cut into 32 pieces of which mean and log-energy are kept: enough to tell tones apart, and
/// no transform that this example would have to explain.
fn frames(bytes: &[u8]) -> Result<Vec<f32>> {
    let mut reader = hound::WavReader::new(bytes)?;
    let spec = reader.spec();
    let samples: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect::<hound::Result<_>>()?,
        hound::SampleFormat::Int => {
            let full = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 / full)).collect::<hound::Result<_>>()?
        }
    };
    let channels = usize::from(spec.channels.max(1));
    let mono: Vec<f32> = samples.chunks_exact(channels).map(|c| c.iter().sum::<f32>() / channels as f32).collect();
    if mono.is_empty() {
        return Err("it has no samples".into());
    }
    if mono.iter().any(|s| !s.is_finite()) {
        return Err("it has samples that are no numbers".into());
    }
    let pieces = FRAME_LANES / 2;
    let frame = ((spec.sample_rate / FRAMES_PER_SECOND) as usize).max(1);
    if mono.len().div_ceil(frame) > MOST_FRAMES {
        eprintln!("note: the sound is cut after {} seconds", MOST_FRAMES / FRAMES_PER_SECOND as usize);
    }
    let mut out = Vec::new();
    for frame in mono.chunks(frame).take(MOST_FRAMES) {
        for piece in 0..pieces {
            let part = &frame[frame.len() * piece / pieces..frame.len() * (piece + 1) / pieces];
            let n = part.len().max(1) as f32;
            let mean = part.iter().sum::<f32>() / n;
            let energy = part.iter().map(|s| s * s).sum::<f32>() / n;
            // -5 (silence) to 0 (full scale), centred.
            out.extend([mean, ((energy + 1e-5).log10() + 2.5) / 2.5]);
        }
    }
    Ok(out)
}
