//! What a span of tokens is made of.

/// The modality of a span. A layer kind maps it to a [`Lifetime`](super::Lifetime).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Modality {
    /// Written words, and what an agent thinks.
    Text,
    /// Patches of one picture, or of one crop of it.
    Image,
    /// Frames of one clip.
    Video,
    /// Frames of sound.
    Audio,
    /// What a tool returned.
    Tool,
    /// Speculated tokens that may be dropped again.
    Draft,
    /// A canvas under denoising.
    Noise,
}

impl Modality {
    /// Every modality, in the order of their discriminants.
    pub const ALL: [Modality; 7] = [
        Modality::Text,
        Modality::Image,
        Modality::Video,
        Modality::Audio,
        Modality::Tool,
        Modality::Draft,
        Modality::Noise,
    ];
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Modality::Text => "text",
            Modality::Image => "image",
            Modality::Video => "video",
            Modality::Audio => "audio",
            Modality::Tool => "tool",
            Modality::Draft => "draft",
            Modality::Noise => "noise",
        })
    }
}
