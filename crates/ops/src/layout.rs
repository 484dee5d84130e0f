//! Which token sees which: a forest of segments, each with a parent.
//!
//! A segment is a run of tokens whose keys lie in consecutive rows. Its tokens see each
//! other causally and all tokens of its ancestors. Positions count along the path from
//! the root, so alternatives of one turn have the same positions. Three uses, one type:
//!
//! - training: a whole dialogue in one pass; every token is key and query
//! - prefill and decoding: the last tokens of a segment are queries, earlier ones are
//!   only keys in the cache; the pages of a cache are segments in a chain
//! - a batch of independent sequences: a forest of one-segment trees

use std::sync::Arc;
use thiserror::Error;

/// A run of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The segment that this one continues; its index is smaller.
    pub parent: Option<usize>,
    /// Row of the first token's key and value.
    pub key_start: usize,
    /// Number of tokens.
    pub len: usize,
    /// How many of the last tokens are queries. Queries are numbered through all
    /// segments in order.
    pub queries: usize,
}

/// A checked forest, ready for attention.
#[derive(Debug, Clone)]
pub struct TreeLayout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    segments: Vec<Segment>,
    paths: Vec<QueryPath>,
    n_queries: usize,
    n_keys: usize,
}

/// The queries of one segment and everything that they may see.
#[derive(Debug)]
pub(crate) struct QueryPath {
    /// Row of the first query.
    pub(crate) query_start: usize,
    /// Number of queries; they are the last tokens of the path.
    pub(crate) queries: usize,
    /// Key row of every position from the root to the segment's end.
    pub(crate) key_rows: Vec<u32>,
}

impl QueryPath {
    /// Position of the first query.
    pub(crate) fn first_position(&self) -> usize {
        self.key_rows.len() - self.queries
    }
}

/// Why segments make no forest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// A parent that does not come before its child.
    #[error("segment {segment}: parent {parent} does not come before it")]
    Parent {
        /// The segment's index.
        segment: usize,
        /// Its parent's index.
        parent: usize,
    },
    /// More queries than tokens.
    #[error("segment {segment} has {len} tokens and {queries} queries")]
    Queries {
        /// The segment's index.
        segment: usize,
        /// Its tokens.
        len: usize,
        /// Its queries.
        queries: usize,
    },
    /// A key row that does not fit the index type.
    #[error("segment {segment}: key rows up to {end} do not fit in 32 bits")]
    TooLarge {
        /// The segment's index.
        segment: usize,
        /// One past its last key row.
        end: usize,
    },
}

impl TreeLayout {
    /// Checks the segments and works out every query's path.
    ///
    /// # Errors
    /// The first segment that breaks the rules of [`Segment`].
    pub fn new(segments: Vec<Segment>) -> Result<Self, LayoutError> {
        let (mut paths, mut n_queries, mut n_keys) = (Vec::new(), 0, 0);
        for (i, s) in segments.iter().enumerate() {
            if let Some(parent) = s.parent.filter(|&parent| parent >= i) {
                return Err(LayoutError::Parent { segment: i, parent });
            }
            if s.queries > s.len {
                return Err(LayoutError::Queries { segment: i, len: s.len, queries: s.queries });
            }
            let end = s.key_start.saturating_add(s.len);
            if u32::try_from(end).is_err() {
                return Err(LayoutError::TooLarge { segment: i, end });
            }
            n_keys = n_keys.max(end);
            if s.queries > 0 {
                let key_rows = path_rows(&segments, i);
                paths.push(QueryPath { query_start: n_queries, queries: s.queries, key_rows });
            }
            n_queries += s.queries;
        }
        Ok(TreeLayout(Arc::new(Inner { segments, paths, n_queries, n_keys })))
    }

    /// Independent sequences of these lengths, packed one after another.
    ///
    /// # Errors
    /// More tokens than fit in 32 bits.
    pub fn sequences(lengths: &[usize]) -> Result<Self, LayoutError> {
        let mut key_start = 0;
        let segments = lengths
            .iter()
            .map(|&len| {
                let segment = Segment { parent: None, key_start, len, queries: len };
                key_start += len;
                segment
            })
            .collect();
        Self::new(segments)
    }

    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        &self.0.segments
    }

    /// Number of query rows.
    pub fn n_queries(&self) -> usize {
        self.0.n_queries
    }

    /// One past the highest key row.
    pub fn n_keys(&self) -> usize {
        self.0.n_keys
    }

    /// The position of every query along its path.
    pub fn positions(&self) -> Vec<u32> {
        let of_path = |path: &QueryPath| {
            let first = path.first_position();
            (first..first + path.queries).map(|p| p as u32)
        };
        self.0.paths.iter().flat_map(of_path).collect()
    }

    pub(crate) fn paths(&self) -> &[QueryPath] {
        &self.0.paths
    }
}

fn path_rows(segments: &[Segment], end: usize) -> Vec<u32> {
    let mut chain = vec![end];
    while let Some(parent) = segments[chain[chain.len() - 1]].parent {
        chain.push(parent);
    }
    let rows = |&i: &usize| {
        let s = segments[i];
        (s.key_start..s.key_start + s.len).map(|row| row as u32)
    };
    chain.iter().rev().flat_map(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(parent: Option<usize>, key_start: usize, len: usize, queries: usize) -> Segment {
        Segment { parent, key_start, len, queries }
    }

    #[test]
    fn alternatives_share_positions() {
        // A trunk of 3 in the cache, two replies of 2 and 1 tokens.
        let layout = TreeLayout::new(vec![
            segment(None, 10, 3, 0),
            segment(Some(0), 0, 2, 2),
            segment(Some(0), 5, 1, 1),
        ])
        .unwrap();
        assert_eq!(layout.positions(), [3, 4, 3]);
        assert_eq!(layout.paths()[0].key_rows, [10, 11, 12, 0, 1]);
        assert_eq!(layout.paths()[1].key_rows, [10, 11, 12, 5]);
        assert_eq!((layout.n_queries(), layout.n_keys()), (3, 13));
    }

    #[test]
    fn broken_forests_are_refused() {
        let error = |s| TreeLayout::new(s).unwrap_err();
        let own = LayoutError::Parent { segment: 0, parent: 0 };
        assert_eq!(error(vec![segment(Some(0), 0, 1, 1)]), own);
        let many = LayoutError::Queries { segment: 0, len: 1, queries: 2 };
        assert_eq!(error(vec![segment(None, 0, 1, 2)]), many);
        let far = error(vec![segment(None, usize::MAX, 2, 1)]);
        assert!(matches!(far, LayoutError::TooLarge { segment: 0, .. }));
    }
}
