//! Who owns which slots of the key-value pool.
//!
//! The pool is cut into pages of [`PAGE`] tokens. A page that is full is known by the
//! tokens on its whole path, so any request with the same beginning uses the same page:
//! a shared prefix is kept once, within a batch and across requests. Pages that nobody
//! uses stay known until their room is needed; the longest unused go first, the end of a
//! path before its beginning.

use std::collections::{BTreeMap, HashMap};

/// Tokens of a page.
pub const PAGE: usize = 16;

/// Names a page.
pub type PageId = u32;

/// The identity of a full page: its own tokens and all before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathHash(u64, u64);

impl PathHash {
    /// The empty path.
    pub const ROOT: PathHash = PathHash(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);

    /// The path after one more page.
    pub fn then(self, tokens: &[u32]) -> PathHash {
        let PathHash(mut a, mut b) = self;
        for &token in tokens {
            a = (a ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            a ^= a >> 29;
            b = (b.rotate_left(23) ^ u64::from(token)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            b ^= b >> 32;
        }
        PathHash(a, b)
    }
}

#[derive(Debug, Default, Clone)]
struct Page {
    users: usize,
    /// Set when the page is full and may be found by others.
    known: Option<(PathHash, Vec<u32>)>,
    /// Set while nobody uses the page and it is known: its place in the queue.
    idle_since: Option<u64>,
}

/// The pages of a pool.
#[derive(Debug)]
pub struct Pages {
    pages: Vec<Page>,
    free: Vec<PageId>,
    known: HashMap<PathHash, PageId>,
    idle: BTreeMap<u64, PageId>,
    clock: u64,
}

impl Pages {
    /// A pool of `n` pages, all free.
    pub fn new(n: usize) -> Self {
        Pages {
            pages: vec![Page::default(); n],
            free: (0..n as u32).rev().collect(),
            known: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
        }
    }

    /// All pages.
    pub fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages that can be had now: free ones, and known ones that nobody uses.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Pages that some request holds.
    pub fn in_use(&self) -> usize {
        self.total() - self.available()
    }

    /// A page for one user, forgetting an idle one if none is free.
    pub fn take(&mut self) -> Option<PageId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                self.forget(id);
                id
            }
        };
        self.pages[id as usize] = Page { users: 1, ..Page::default() };
        Some(id)
    }

    /// The page of this path, with one more user, if it is known.
    pub fn find(&mut self, path: PathHash, tokens: &[u32]) -> Option<PageId> {
        let id = *self.known.get(&path)?;
        let page = &mut self.pages[id as usize];
        if page.known.as_ref().is_none_or(|(_, own)| own != tokens) {
            return None; // two paths of one hash: not the same tokens
        }
        page.users += 1;
        if let Some(place) = page.idle_since.take() {
            self.idle.remove(&place);
        }
        Some(id)
    }

    /// Makes a full page known. When the same path is known already, the page stays
    /// private to its user.
    pub fn publish(&mut self, id: PageId, path: PathHash, tokens: &[u32]) {
        debug_assert_eq!(tokens.len(), PAGE);
        if self.known.contains_key(&path) {
            return;
        }
        self.known.insert(path, id);
        self.pages[id as usize].known = Some((path, tokens.to_vec()));
    }

    /// Gives a request's pages back, in path order.
    ///
    /// # Panics
    /// When a page has no user.
    pub fn release(&mut self, pages: &[PageId]) {
        for &id in pages.iter().rev() {
            let page = &mut self.pages[id as usize];
            assert!(page.users > 0, "page {id} is released more often than taken");
            page.users -= 1;
            if page.users > 0 {
                continue;
            }
            if page.known.is_some() {
                page.idle_since = Some(self.clock);
                self.idle.insert(self.clock, id);
                self.clock += 1;
            } else {
                self.free.push(id);
            }
        }
    }

    /// Forgets every known page that nobody uses, and hides the rest from later
    /// requests: for weights that have changed.
    pub fn invalidate(&mut self) {
        for id in std::mem::take(&mut self.idle).into_values() {
            self.forget(id);
            self.free.push(id);
        }
        self.known.clear();
        for page in &mut self.pages {
            page.known = None;
        }
    }

    fn forget(&mut self, id: PageId) {
        let page = &mut self.pages[id as usize];
        page.idle_since = None;
        if let Some((path, _)) = page.known.take() {
            self.known.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(start: u32) -> Vec<u32> {
        (start..start + PAGE as u32).collect()
    }

    #[test]
    fn a_published_page_is_found_by_its_whole_path() {
        let mut pages = Pages::new(4);
        let (first, second) = (pages.take().unwrap(), pages.take().unwrap());
        let path = PathHash::ROOT.then(&tokens(0));
        let longer = path.then(&tokens(100));
        pages.publish(first, path, &tokens(0));
        pages.publish(second, longer, &tokens(100));
        pages.release(&[first, second]);
        assert_eq!(pages.available(), 4);
        assert_eq!(pages.find(path, &tokens(0)), Some(first));
        assert_eq!(pages.find(PathHash::ROOT.then(&tokens(100)), &tokens(100)), None);
        assert_eq!(pages.find(longer, &tokens(100)), Some(second));
        assert_eq!(pages.in_use(), 2);
    }

    #[test]
    fn the_end_of_an_idle_path_is_forgotten_before_its_beginning() {
        let mut pages = Pages::new(2);
        let (first, second) = (pages.take().unwrap(), pages.take().unwrap());
        let path = PathHash::ROOT.then(&tokens(0));
        let longer = path.then(&tokens(1));
        pages.publish(first, path, &tokens(0));
        pages.publish(second, longer, &tokens(1));
        assert_eq!(pages.take(), None);
        pages.release(&[first, second]);
        assert_eq!(pages.take(), Some(second));
        assert_eq!(pages.find(longer, &tokens(1)), None);
        assert_eq!(pages.find(path, &tokens(0)), Some(first));
    }

    #[test]
    fn shared_pages_stay_until_the_last_user_leaves() {
        let mut pages = Pages::new(1);
        let page = pages.take().unwrap();
        let path = PathHash::ROOT.then(&tokens(0));
        pages.publish(page, path, &tokens(0));
        assert_eq!(pages.find(path, &tokens(0)), Some(page));
        pages.release(&[page]);
        assert_eq!((pages.available(), pages.take()), (0, None));
        pages.release(&[page]);
        assert_eq!(pages.available(), 1);
        pages.invalidate();
        assert_eq!(pages.find(path, &tokens(0)), None);
        assert!(pages.take().is_some());
    }
}
