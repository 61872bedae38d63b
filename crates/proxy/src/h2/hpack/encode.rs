//! From fields to header blocks.

use super::table::Table;
use super::{DEFAULT_TABLE_SIZE, integer, statics};

/// Fields whose hashes are remembered: sets, by hash, of the last so many. In a set of one, two fields that are sent in turn would
/// push each other out for ever.
const SEEN: (usize, usize) = (32, 4);

/// Places for fields that are in the table, which holds fewer than 128.
const PLACES: usize = 256;

/// Fields at the front of a block of which is remembered what they became in the last one.
const RECENT: usize = 32;

/// Where the fields of trailers are remembered, so that they and heads do not push each other out.
const TRAILERS: usize = RECENT - 4;

/// The sending half of a connection's header compression.
///
/// A field enters the table when it is sent for the second time: what repeats on a connection (`:authority`, `user-agent`,
/// `content-type: application/grpc`, the path of a method) costs one byte from its third time on, and what never repeats (trace
/// and request ids) pushes nothing out. Credentials and cookies never enter: one connection carries what several clients send,
/// and by its length a block says whether a field was sent before (RFC 7541, 7.1).
///
/// A block resembles the one before it, so a field is first compared with what stood in its place there.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// How many fields have entered, of which the last bits are kept: more than the table can hold. Its newest has this number.
    entered: u8,
    /// Numbers of fields in the table, by hash; those of fields that are gone mean nothing.
    places: [u8; PLACES],
    /// Hashes of fields that were sent as literals, the last one first in its set.
    seen: [[u16; SEEN.1]; SEEN.0],
    /// By place in the block, what the field there became when it was sent as an index the last time.
    recent: [Recent; RECENT],
    /// The place of the next field.
    place: usize,
    /// The smallest size that the table had since the last block, if that has to be told.
    smallest: Option<usize>,
    /// A name in lower case.
    lower_case: Vec<u8>,
}

/// A field that was sent as an index.
#[derive(Clone, Copy, Debug)]
enum Recent {
    /// Of the static table; zero is none.
    Static(u8),
    /// Of the dynamic table, by number, as in [`Encoder::places`].
    Dynamic(u8),
}

impl Encoder {
    /// An encoder for a peer that has not told its settings yet.
    pub(crate) fn new() -> Encoder {
        Encoder {
            table: Table::new(DEFAULT_TABLE_SIZE),
            entered: 0,
            places: [0; PLACES],
            seen: [[0; SEEN.1]; SEEN.0],
            recent: [Recent::Static(0); RECENT],
            place: 0,
            smallest: None,
            lower_case: Vec::new(),
        }
    }

    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE. More than [`DEFAULT_TABLE_SIZE`] is not used. The next block tells what has
    /// changed.
    pub(crate) fn set_max_table_size(&mut self, peer_setting: u32) {
        let max = DEFAULT_TABLE_SIZE.min(peer_setting as usize);
        if max != self.table.max() {
            self.table.resize(max);
            self.smallest = Some(self.smallest.map_or(max, |smallest| smallest.min(max)));
        }
    }

    /// Begins the block of trailers.
    pub(crate) fn begin_trailers(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        self.place = TRAILERS;
    }

    /// Begins the block of a head.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        self.place = 0;
        if let Some(smallest) = self.smallest.take() {
            let max = self.table.max();
            if smallest < max {
                integer::put(smallest, 5, 0x20, out);
            }
            integer::put(max, 5, 0x20, out);
        }
    }

    /// Appends a field. One that must never enter a table, here or further on, says `never_indexed` (RFC 7541, 6.2.3). A name in
    /// upper case is sent in lower case.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], never_indexed: bool, out: &mut Vec<u8>) {
        match self.again(name, value) {
            Some(index) if !never_indexed => integer::put(index, 7, 0x80, out),
            _ => self.compress(name, value, never_indexed, out),
        }
        self.place += 1;
    }

    /// The index of the field, where it stood in the same place of the last block.
    #[inline]
    fn again(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        let (index, field) = match *self.recent.get(self.place)? {
            Recent::Static(index) => (usize::from(index), *statics::FIELDS.get(usize::from(index).wrapping_sub(1))?),
            Recent::Dynamic(number) => {
                let index = usize::from(self.entered.wrapping_sub(number));
                (statics::FIELDS.len() + 1 + index, self.table.get(index)?)
            }
        };
        (field == (name, value)).then_some(index)
    }

    fn remember(&mut self, recent: Recent) {
        if let Some(place) = self.recent.get_mut(self.place) {
            *place = recent;
        }
    }

    fn compress(&mut self, name: &[u8], value: &[u8], never_indexed: bool, out: &mut Vec<u8>) {
        let (hash, upper) = scan(name);
        if !upper {
            return self.lower(name, hash, value, never_indexed, out);
        }
        let mut lower = std::mem::take(&mut self.lower_case);
        lower.clear();
        lower.extend(name.iter().map(u8::to_ascii_lowercase));
        self.lower(&lower, scan(&lower).0, value, never_indexed, out);
        self.lower_case = lower;
    }

    /// The same for a name in lower case, with its hash.
    #[inline]
    fn lower(&mut self, name: &[u8], hash: u64, value: &[u8], never_indexed: bool, out: &mut Vec<u8>) {
        let index = statics::name(name);
        if never_indexed {
            return literal(index, 4, 0x10, name, value, out);
        }
        let whole = statics::field(index, value);
        if whole > 0 {
            self.remember(Recent::Static(whole as u8));
            return integer::put(whole, 7, 0x80, out);
        }
        if !self.may_enter(index, name, value) {
            return literal(index, 4, 0, name, value, out);
        }
        let hash = hash_value(hash, value);
        if let Some(index) = self.find(hash, name, value) {
            self.remember(Recent::Dynamic(self.entered.wrapping_sub(index as u8)));
            return integer::put(statics::FIELDS.len() + 1 + index, 7, 0x80, out);
        }
        let seen = &mut self.seen[hash as usize % SEEN.0];
        let mark = (hash >> 16) as u16;
        if !seen.contains(&mark) {
            seen.copy_within(..SEEN.1 - 1, 1);
            seen[0] = mark;
            return literal(index, 4, 0, name, value, out);
        }
        literal(index, 6, 0x40, name, value, out);
        self.enter(hash, name, value);
    }

    /// Appends `:status`.
    pub(crate) fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
        self.field(b":status", &digits, false, out);
    }

    /// Neither a secret nor so large that it would push out too much else.
    fn may_enter(&self, index: usize, name: &[u8], value: &[u8]) -> bool {
        const SECRET: [usize; 4] =
            [statics::AUTHORIZATION, statics::PROXY_AUTHORIZATION, statics::COOKIE, statics::SET_COOKIE];
        name.len() + value.len() <= self.table.max() / 4 && !SECRET.contains(&index)
    }

    /// The field's index in the dynamic table, the newest being zero.
    fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        places(hash).into_iter().find_map(|place| {
            let index = usize::from(self.entered.wrapping_sub(self.places[place]));
            (self.table.get(index) == Some((name, value))).then_some(index)
        })
    }

    fn enter(&mut self, hash: u32, name: &[u8], value: &[u8]) {
        if !self.table.insert(name, value) {
            return;
        }
        self.entered = self.entered.wrapping_add(1);
        let [first, second] = places(hash);
        let gone = |place: usize| usize::from(self.entered.wrapping_sub(self.places[place])) >= self.table.len();
        // Where both places are taken, the field in the first one is found no more; it enters anew when it is sent again.
        let place = if !gone(first) && gone(second) { second } else { first };
        self.places[place] = self.entered;
    }
}

/// Where the number of a field with this hash may stand.
fn places(hash: u32) -> [usize; 2] {
    [(hash >> 8) as usize % PLACES, (hash >> 16) as usize % PLACES]
}

/// Appends a literal field (6.2) whose first byte has `flags` beside a prefix of `bits` bits.
#[inline]
fn literal(index: usize, bits: u32, flags: u8, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    integer::put(index, bits, flags, out);
    if index == 0 {
        integer::put(name.len(), 7, 0, out);
        out.extend_from_slice(name);
    }
    integer::put(value.len(), 7, 0, out);
    out.extend_from_slice(value);
}

/// Calls `each` with eight bytes at a time. The last ones may be among those before; fewer than eight are filled up.
#[inline]
fn words(bytes: &[u8], mut each: impl FnMut(u64)) {
    if let Some(last) = bytes.last_chunk() {
        let (whole, rest) = bytes.as_chunks();
        whole.iter().for_each(|chunk| each(u64::from_le_bytes(*chunk)));
        if !rest.is_empty() {
            each(u64::from_le_bytes(*last));
        }
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        each(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)));
    } else if let [first, .., last] | [first @ last] = bytes {
        each(u64::from_le_bytes([*first, bytes[bytes.len() / 2], *last, 0, 0, 0, 0, 0]));
    }
}

/// 2^64 divided by the golden ratio, as in Fibonacci hashing: multiplying by it spreads a difference over all higher bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(SPREAD)
}

/// A hash of `name`, and whether upper case occurs in it. A byte of seven bits is upper case when adding 0x3f carries into its top
/// bit ('A' and above) and adding 0x25 does not ('[' and above).
fn scan(name: &[u8]) -> (u64, bool) {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (mut hash, mut upper) = (name.len() as u64, 0);
    words(name, |word| {
        let low = word & (0x7f * ONES);
        upper |= (low + 0x3f * ONES) & !(low + 0x25 * ONES) & !word;
        hash = mix(hash, word);
    });
    (hash, upper & (0x80 * ONES) != 0)
}

/// A hash of `bytes`.
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    hash_value(0, bytes)
}

/// A hash of the field whose name has the hash `name`. Who finds two fields with one hash gains nothing: the second enters the
/// table one time too soon.
fn hash_value(name: u64, value: &[u8]) -> u32 {
    let mut hash = name ^ (value.len() as u64) << 32;
    words(value, |word| hash = mix(hash, word));
    (hash >> 32) as u32
}
