//! A PKCS#11 module in front of SoftHSM that misbehaves as it is told: for the tests of this package.
//!
//! It reads its mood from the file `mood` beside itself, and points SoftHSM to `softhsm2.conf` there. It passes
//! everything on and, by its mood, hangs, crashes, loses the token, or answers garbage.
#![expect(
    unsafe_code,
    reason = "a PKCS#11 module is a C library, and so is what it stands before"
)]

use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use cryptoki_sys::{
    CK_ATTRIBUTE_PTR, CK_BYTE_PTR, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_OBJECT_HANDLE,
    CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_USER_TYPE, CK_UTF8CHAR_PTR,
    CKA_EXTRACTABLE, CKR_DEVICE_REMOVED, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR, CKR_OK, Pkcs11,
};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

struct Shim {
    mood: String,
    real: CK_FUNCTION_LIST,
    patched: CK_FUNCTION_LIST,
    /// Kept loaded.
    _module: Pkcs11,
}

// SAFETY: function pointers and a handle on a loaded library, written once.
unsafe impl Send for Shim {}
// SAFETY: as above, and only read afterwards.
unsafe impl Sync for Shim {}

static SHIM: OnceLock<Shim> = OnceLock::new();

fn shim() -> &'static Shim {
    SHIM.get().expect("C_GetFunctionList came first")
}

fn moody(mood: &str) -> bool {
    shim().mood == mood
}

/// For as long as somebody may wait for it: no test leaves a process behind.
#[expect(
    clippy::disallowed_methods,
    reason = "a module has no `main` to return to, and this one holds no key"
)]
fn hang() -> ! {
    let parent = parent_id();
    while parent_id() == parent {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::process::exit(1)
}

/// The folder that this library was loaded from.
fn folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = (maps.lines()).find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("libtoken_shim.so")
            .then(|| PathBuf::from(path))
    })?;
    Some(path.parent()?.to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "SoftHSM finds its tokens by the environment"
)]
fn load() -> Option<Shim> {
    let folder = folder()?;
    let mood = std::fs::read_to_string(folder.join("mood")).ok()?;
    if mood == "hangs while it is loaded" {
        hang();
    }
    // SAFETY: the process that loads this has one thread; SoftHSM reads the variable when it is initialised.
    unsafe { std::env::set_var("SOFTHSM2_CONF", folder.join("softhsm2.conf")) };
    // SAFETY: SoftHSM's initialisers may run at any time.
    let module = unsafe { Pkcs11::new(SOFTHSM) }.ok()?;
    let mut list = std::ptr::null_mut();
    // SAFETY: SoftHSM writes the address of its list, which lives as long as it is loaded.
    let real = unsafe {
        if module.C_GetFunctionList(&mut list) != CKR_OK || list.is_null() {
            return None;
        }
        *list
    };
    let mut patched = real;
    patched.C_Login = Some(login);
    patched.C_Finalize = Some(finalize);
    patched.C_Encrypt = Some(encrypt);
    patched.C_Decrypt = Some(decrypt);
    patched.C_GetAttributeValue = Some(attribute);
    Some(Shim {
        mood,
        real,
        patched,
        _module: module,
    })
}

/// The one symbol that every module of PKCS#11 v2 has.
///
/// # Safety
/// `list` is a place for an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if SHIM.get().is_none() {
        match load() {
            Some(shim) => drop(SHIM.set(shim)),
            None => return CKR_GENERAL_ERROR,
        }
    }
    // SAFETY: the caller gives a place for the address, and reads the list only.
    unsafe { *list = std::ptr::from_ref(&shim().patched).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: CK_UTF8CHAR_PTR,
    len: CK_ULONG,
) -> CK_RV {
    if moody("hangs at login") {
        hang();
    }
    if moody("vanishes at login") {
        return CKR_DEVICE_REMOVED;
    }
    match shim().real.C_Login {
        // SAFETY: passed on as it came.
        Some(login) => unsafe { login(session, user, pin, len) },
        None => CKR_FUNCTION_FAILED,
    }
}

unsafe extern "C" fn finalize(reserved: *mut std::ffi::c_void) -> CK_RV {
    if moody("hangs at the end") {
        hang();
    }
    match shim().real.C_Finalize {
        // SAFETY: passed on as it came.
        Some(finalize) => unsafe { finalize(reserved) },
        None => CKR_FUNCTION_FAILED,
    }
}

unsafe extern "C" fn encrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_len: CK_ULONG,
    out: CK_BYTE_PTR,
    out_len: CK_ULONG_PTR,
) -> CK_RV {
    let Some(encrypt) = shim().real.C_Encrypt else {
        return CKR_FUNCTION_FAILED;
    };
    // SAFETY: passed on as it came.
    let result = unsafe { encrypt(session, data, data_len, out, out_len) };
    if moody("wraps garbage") && !out.is_null() {
        // SAFETY: SoftHSM has just written there.
        unsafe { *out ^= 1 };
    }
    result
}

unsafe extern "C" fn decrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_len: CK_ULONG,
    out: CK_BYTE_PTR,
    out_len: CK_ULONG_PTR,
) -> CK_RV {
    match shim().mood.as_str() {
        "hangs at decryption" => hang(),
        "crashes" => std::process::abort(),
        "vanishes at decryption" => return CKR_DEVICE_REMOVED,
        "answers an absurd length" => {
            // SAFETY: the caller gives a place for the length.
            unsafe { *out_len = 1 << 44 };
            return CKR_OK;
        }
        "answers nothing" => {
            // SAFETY: as above.
            unsafe { *out_len = 0 };
            return CKR_OK;
        }
        _ => {}
    }
    let Some(decrypt) = shim().real.C_Decrypt else {
        return CKR_FUNCTION_FAILED;
    };
    // SAFETY: passed on as it came.
    let result = unsafe { decrypt(session, data, data_len, out, out_len) };
    if !out.is_null() {
        match shim().mood.as_str() {
            // SAFETY: SoftHSM has just written there.
            "answers another key" => unsafe { *out ^= 1 },
            // SAFETY: the caller gives a place for the length.
            "answers half a key" => unsafe { *out_len = 16 },
            _ => {}
        }
    }
    result
}

unsafe extern "C" fn attribute(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> CK_RV {
    let Some(attribute) = shim().real.C_GetAttributeValue else {
        return CKR_FUNCTION_FAILED;
    };
    // SAFETY: passed on as it came.
    let result = unsafe { attribute(session, object, template, count) };
    if moody("has an extractable key") {
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the caller's template has `count` entries; SoftHSM has just filled them in, and this one is a
            // CK_BBOOL.
            unsafe {
                let entry = template.add(at);
                if (*entry).type_ == CKA_EXTRACTABLE && !(*entry).pValue.is_null() {
                    (*entry).pValue.cast::<u8>().write(1);
                }
            }
        }
    }
    result
}
