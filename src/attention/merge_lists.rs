//! Which partial states each row merges, in the order of its view.

/// Partial states of consecutive rows of a view over one of its entries: of row `first_row + i` and split `s` the state
/// `first + s * stride + i`.
pub(super) struct EntryStates {
    pub first_row: u32,
    pub rows: u32,
    /// Place of the entry in the view.
    pub order: u32,
    pub first: u32,
    pub stride: u32,
    pub splits: u32,
}

/// Row `r` has the states `index[indptr[r] .. indptr[r + 1]]`: indptr and index.
pub(super) fn merge_lists(num_rows: usize, mut states: Vec<EntryStates>) -> (Vec<u32>, Vec<u32>) {
    states.sort_by_key(|s| s.order);
    let rows_of = |s: &EntryStates| s.first_row as usize..(s.first_row + s.rows) as usize;
    let mut indptr = vec![0; num_rows + 1];
    for s in &states {
        indptr[1..][rows_of(s)].iter_mut().for_each(|count| *count += s.splits);
    }
    for row in 0..num_rows {
        indptr[row + 1] += indptr[row];
    }
    let mut next = indptr.clone();
    let mut index = vec![0; indptr[num_rows] as usize];
    for s in &states {
        for (next, first) in next[rows_of(s)].iter_mut().zip(s.first..) {
            let list = index[*next as usize..].iter_mut().take(s.splits as usize);
            list.zip((first..).step_by(s.stride as usize)).for_each(|(entry, state)| *entry = state);
            *next += s.splits;
        }
    }
    (indptr, index)
}
