//! Who may see a token: key `k` is visible to query `q` iff `birth[k] <= q < death[k]`.
//!
//! All numbers are slots of the view: append order, never positions. A mask is a small table, one row per modality;
//! no O(n^2) mask exists. The column-interval idea is FlashMask's (arXiv 2410.01359).

use super::Modality;

/// The first query slot that sees a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Birth {
    /// The key's own slot: causal.
    Causal,
    /// The first slot of the key's span: the span sees itself as a whole.
    SpanStart,
    /// A fixed slot: `At(0)` makes a prefix that every query sees.
    At(i32),
    /// `floor(k * num / den) + off`: an entry that is born when the last token it stands for is (compressed KV), or
    /// `k - r` for a window that looks both ways (`num = den = 1`, `off = -r`).
    Affine {
        /// Numerator, at least 0.
        num: i32,
        /// Denominator, at least 1.
        den: i32,
        /// Added afterwards.
        off: i32,
    },
}

/// The first query slot that no longer sees a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Death {
    /// Seen for ever.
    Never,
    /// The end of the key's span: nothing outside the span sees it.
    SpanEnd,
    /// `k + w`: a window of `w` keys, the query's own included.
    Window(i32),
    /// The later of `k + w` and the end of the span: a window that lets an image be seen whole by itself.
    WindowOrSpan(i32),
    /// The end of the chunk of `c` slots that holds the key, counted from slot 0.
    ChunkEnd(i32),
    /// A fixed slot.
    At(i32),
}

/// Birth and death of the keys of one modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// First query slot that sees the key.
    pub birth: Birth,
    /// First query slot that does not any more.
    pub death: Death,
}

impl Lifetime {
    /// Seen by its own slot and all later ones.
    pub const CAUSAL: Lifetime = Lifetime { birth: Birth::Causal, death: Death::Never };

    /// Whether queries inside a span see keys of the span that come later: such a span must be appended at once.
    pub fn looks_ahead(&self) -> bool {
        match self.birth {
            Birth::SpanStart | Birth::At(_) => true,
            Birth::Affine { num, den, off } => off < 0 || num < den,
            Birth::Causal => false,
        }
    }

    /// Whether the numbers make a lifetime: windows and chunks of at least one slot, a denominator of at least 1, and
    /// operands small enough that slots up to 2^20 keep births within 32 bits.
    pub fn is_valid(&self) -> bool {
        let birth = match self.birth {
            Birth::Affine { num, den, off } => {
                (0..=1024).contains(&num) && (1..=1024).contains(&den) && off.abs() < 1 << 20
            }
            Birth::At(slot) => slot >= 0,
            Birth::Causal | Birth::SpanStart => true,
        };
        birth
            && match self.death {
                Death::Window(n) | Death::WindowOrSpan(n) | Death::ChunkEnd(n) => n >= 1,
                Death::At(slot) => slot >= 0,
                Death::Never | Death::SpanEnd => true,
            }
    }

    /// Birth and death of key `k` of the span `[start, end)`. Saturates at the ends of 32 bits.
    pub fn of(&self, k: i32, start: i32, end: i32) -> (i32, i32) {
        let birth = match self.birth {
            Birth::Causal => k,
            Birth::SpanStart => start,
            Birth::At(slot) => slot,
            Birth::Affine { num, den, off } => {
                let scaled = (i64::from(k) * i64::from(num)).div_euclid(i64::from(den.max(1))) + i64::from(off);
                scaled.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
            }
        };
        let death = match self.death {
            Death::Never => i32::MAX,
            Death::SpanEnd => end,
            Death::Window(w) => k.saturating_add(w),
            Death::WindowOrSpan(w) => k.saturating_add(w).max(end),
            Death::ChunkEnd(c) => k.div_euclid(c.max(1)).saturating_add(1).saturating_mul(c),
            Death::At(slot) => slot,
        };
        (birth, death)
    }
}

/// The lifetimes of one layer kind: a row per modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lifetimes {
    rows: [Lifetime; Modality::ALL.len()],
}

impl Lifetimes {
    /// The same lifetime for every modality.
    pub const fn all(lifetime: Lifetime) -> Self {
        Lifetimes { rows: [lifetime; Modality::ALL.len()] }
    }
    /// Causal for every modality.
    pub const fn causal() -> Self {
        Lifetimes::all(Lifetime::CAUSAL)
    }
    /// A causal window of `w` keys, the query's own included.
    pub const fn window(w: i32) -> Self {
        Lifetimes::all(Lifetime { birth: Birth::Causal, death: Death::Window(w) })
    }
    /// Changes one modality's row.
    pub const fn with(mut self, modality: Modality, birth: Birth, death: Death) -> Self {
        self.rows[modality as usize] = Lifetime { birth, death };
        self
    }
    /// The row of a modality.
    pub const fn get(&self, modality: Modality) -> Lifetime {
        self.rows[modality as usize]
    }
}

/// Bounds of birth and death over a run of keys: enough to call a tile empty, full or partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Least birth.
    pub birth_min: i32,
    /// Greatest birth.
    pub birth_max: i32,
    /// Least death.
    pub death_min: i32,
    /// Greatest death.
    pub death_max: i32,
}

/// What a tile of queries sees of a tile of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileClass {
    /// No query sees any key: never loaded.
    Empty,
    /// Every query sees every key: never compared.
    Full,
    /// Compared key by key.
    Partial,
}

impl Header {
    /// The header of no key at all: the identity of [`Header::merge`].
    pub const NONE: Header =
        Header { birth_min: i32::MAX, birth_max: i32::MIN, death_min: i32::MAX, death_max: i32::MIN };

    /// The header of keys `[first, last]` of a span `[start, end)`: births and deaths never fall along a span.
    pub fn of(lifetime: &Lifetime, first: i32, last: i32, start: i32, end: i32) -> Header {
        let (birth_min, death_min) = lifetime.of(first, start, end);
        let (birth_max, death_max) = lifetime.of(last, start, end);
        Header { birth_min, birth_max, death_min, death_max }
    }

    /// The header of both runs.
    pub fn merge(self, other: Header) -> Header {
        Header {
            birth_min: self.birth_min.min(other.birth_min),
            birth_max: self.birth_max.max(other.birth_max),
            death_min: self.death_min.min(other.death_min),
            death_max: self.death_max.max(other.death_max),
        }
    }

    /// What queries `[q_first, q_last]` see of these keys.
    pub fn classify(&self, q_first: i32, q_last: i32) -> TileClass {
        if q_last < self.birth_min || q_first >= self.death_max {
            TileClass::Empty
        } else if q_first >= self.birth_max && q_last < self.death_min {
            TileClass::Full
        } else {
            TileClass::Partial
        }
    }
}
