// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a process is made of, as far as it matters to launches: the shim's edits and the driver.
//!
//! A broker manages what it has proven: these edits, on this build of the driver's library. A library
//! is known by its build id, which the linker makes of its contents and which is mapped with it: no
//! file is looked for, so it is that of the library that is in this process, whatever its name.

use std::ffi::{c_int, c_void};

use lithos_abi::bindings::LITHOS_BUILD_ID_BYTES;

/// The longest build id.
pub const BUILD_ID_BYTES: usize = LITHOS_BUILD_ID_BYTES as usize;

/// The type of a note that holds a build id, and whose note it is.
const NT_GNU_BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";
/// Words before a note's name: lengths of name and contents, and the type.
const NOTE_HEAD: usize = 12;

/// What a tenant says about itself when it attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// What the shim does to launch descriptors, as one number.
    pub edits: u64,
    /// The build id of the CUDA driver in the process, zeros behind it.
    pub driver: [u8; BUILD_ID_BYTES],
}

/// Returns the build id of the library in this process that has something at this address, zeros
/// behind it; `None` if there is no such library, or it has none.
pub fn build_id(address: *const c_void) -> Option<[u8; BUILD_ID_BYTES]> {
    let mut search = Search {
        address: address.addr() as u64,
        found: None,
    };
    // SAFETY: `look` gets what it expects: the search, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}

struct Search {
    address: u64,
    found: Option<[u8; BUILD_ID_BYTES]>,
}

/// Looks at one library; anything but 0 ends the search.
unsafe extern "C" fn look(
    library: *mut libc::dl_phdr_info,
    _bytes: usize,
    search: *mut c_void,
) -> c_int {
    // SAFETY: the linker lends the library's description, and `build_id` the search.
    let (library, search) = unsafe { (&*library, &mut *search.cast::<Search>()) };
    if library.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the library has so many program headers, which are never changed.
    let headers =
        unsafe { std::slice::from_raw_parts(library.dlpi_phdr, library.dlpi_phnum.into()) };
    let start = |header: &libc::Elf64_Phdr| library.dlpi_addr.wrapping_add(header.p_vaddr);
    let holds = headers.iter().any(|header| {
        let offset = search.address.wrapping_sub(start(header));
        header.p_type == libc::PT_LOAD && offset < header.p_memsz
    });
    if !holds {
        return 0;
    }
    let notes = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_NOTE);
    search.found = notes
        .filter_map(|header| {
            let bytes = usize::try_from(header.p_memsz).ok()?;
            let notes = std::ptr::with_exposed_provenance(usize::try_from(start(header)).ok()?);
            // SAFETY: the linker has mapped this segment, and the library is in use.
            find_build_id(unsafe { std::slice::from_raw_parts(notes, bytes) })
        })
        .next();
    1
}

/// Finds a build id among notes.
fn find_build_id(mut notes: &[u8]) -> Option<[u8; BUILD_ID_BYTES]> {
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
    };
    loop {
        let lengths = [word(notes, 0)?, word(notes, 4)?];
        let [owner_bytes, bytes] = lengths.map(|length| length as usize);
        let at = NOTE_HEAD.checked_add(owner_bytes.checked_next_multiple_of(4)?)?;
        let id = notes.get(at..at.checked_add(bytes)?)?;
        if word(notes, 8)? == NT_GNU_BUILD_ID
            && notes.get(NOTE_HEAD..NOTE_HEAD + owner_bytes)? == OWNER
        {
            let mut whole = [0; BUILD_ID_BYTES];
            whole.get_mut(..bytes)?.copy_from_slice(id);
            return (bytes > 0).then_some(whole);
        }
        notes = notes.get(at + bytes.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, owner: &[u8], contents: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [owner.len(), contents.len()] {
            note.extend(u32::try_from(word).expect("a short note").to_ne_bytes());
        }
        note.extend(kind.to_ne_bytes());
        for part in [owner, contents] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_build_id_is_found_among_other_notes() {
        let others = [note(3, b"Go\0\0", b"no"), note(1, OWNER, b"abi tag")].concat();
        assert_eq!(find_build_id(&others), None);
        let all = [others, note(3, OWNER, b"twenty bytes of hash")].concat();
        let found = find_build_id(&all).expect("a build id");
        assert!(found.starts_with(b"twenty bytes of hash\0"));
    }

    #[test]
    fn notes_that_end_too_early_hold_nothing() {
        let whole = note(3, OWNER, b"id!!");
        for length in 0..whole.len() {
            assert_eq!(find_build_id(&whole[..length]), None);
        }
        assert_eq!(find_build_id(&note(3, OWNER, &[1; 33])), None);
        assert_eq!(find_build_id(&note(3, OWNER, b"")), None);
        assert_eq!(find_build_id(&[0xff; 64]), None);
    }

    #[test]
    fn the_libraries_of_a_process_are_told_apart_by_their_addresses() {
        let libc = build_id(libc::getpid as *const c_void);
        assert!(libc.is_some(), "distributions build libc with an id");
        assert_ne!(libc, build_id(build_id as *const c_void));
        assert_eq!(build_id(std::ptr::null()), None);
    }
}
