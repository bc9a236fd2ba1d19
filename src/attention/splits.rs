//! Where the keys of a segment are split among items.

/// Where the keys of a segment are split for decode rows: some splits of one size, then as many of twice the size, and so
/// on. Long segments have fewer states so, and as long as all splits of a size fill the device, no split is longer than the
/// device's share of the whole. By place in the segment alone: neither the batch nor what comes behind moves a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Splits {
    /// Keys of the first: whole tiles.
    pub keys: u32,
    /// Splits of each size.
    pub of_a_size: u32,
}

impl Splits {
    /// A prefill is not split.
    pub const NONE: Splits = Splits { keys: u32::MAX, of_a_size: u32::MAX };

    /// First key of the split of `key`, and of the next.
    pub fn at(&self, key: u32) -> (u64, u64) {
        let (key, first) = (u64::from(key), u64::from(self.keys));
        let size_of_first = first * u64::from(self.of_a_size);
        let doublings = (key / size_of_first + 1).ilog2();
        let (begin, size) = (size_of_first * ((1 << doublings) - 1), first << doublings);
        let begin = begin + (key - begin) / size * size;
        (begin, begin + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All splits up to `keys`.
    fn sizes(splits: Splits, keys: u64) -> Vec<u64> {
        let (mut sizes, mut key) = (Vec::new(), 0);
        while key < keys {
            let (begin, end) = splits.at(key as u32);
            assert_eq!(begin, key);
            for inside in [begin, begin + (end - begin) / 2, end - 1] {
                assert_eq!(splits.at(inside as u32), (begin, end));
            }
            sizes.push(end - begin);
            key = end;
        }
        sizes
    }

    #[test]
    fn sizes_double_after_so_many() {
        let splits = Splits { keys: 512, of_a_size: 3 };
        assert_eq!(sizes(splits, 512 * (3 + 6 + 4)), [512, 512, 512, 1024, 1024, 1024, 2048]);
        assert_eq!(sizes(Splits { keys: 480, of_a_size: u32::MAX }, 4800), [480; 10]);
        assert_eq!(Splits::NONE.at(1 << 30), (0, u64::from(u32::MAX)));
    }

    /// Where the splits of a size fill a device of so many workgroups, none is longer than a workgroup's share of all keys
    /// but for those that are the shortest.
    #[test]
    fn no_split_is_longer_than_a_share() {
        let splits = Splits { keys: 512, of_a_size: 16 };
        for keys in (512..1 << 20).step_by(4096 - 512) {
            let (begin, end) = splits.at(keys - 1);
            assert!(end - begin == 512 || (end - begin) * 16 <= u64::from(keys) + 16 * 512, "{keys}");
        }
    }
}
