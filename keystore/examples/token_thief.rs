//! Somebody who has the token and its PIN, and tries to take the keystore's key out of it: for the tests of this
//! package.
//!
//! Says on standard output, a line each, what came of each attempt.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it says what came of it")]

use std::env::args;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (module, pin) = (args().nth(1), args().nth(2));
    let pkcs11 = Pkcs11::new(module.ok_or("no module")?)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot = *(pkcs11.get_slots_with_initialized_token()?.first()).ok_or("no token")?;
    let session = pkcs11.open_rw_session(slot)?;
    session.login(
        UserType::User,
        Some(&AuthPin::new(pin.ok_or("no PIN")?.into())),
    )?;
    let found = session.find_objects(&[Attribute::Label(b"castellum".to_vec())])?;
    let [key] = found[..] else {
        return Err(format!("{} keys", found.len()).into());
    };

    let value = session.get_attribute_info(key, &[AttributeType::Value])?;
    println!(
        "value: {}",
        match value[..] {
            [AttributeInfo::Sensitive] => "sensitive".to_owned(),
            _ => format!("{value:?}"),
        }
    );
    let read = session.get_attributes(key, &[AttributeType::Value])?;
    println!("read: {} attributes", read.len());

    let own = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    let own = session.generate_key(&Mechanism::AesKeyGen, &own)?;
    for mechanism in [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad] {
        let wrapped = session.wrap_key(&mechanism, own, key);
        println!("wrap: {}", said(wrapped));
    }
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, key, own);
    println!("wrap by it: {}", said(wrapped));
    for loosened in [Attribute::Extractable(true), Attribute::Sensitive(false)] {
        let copy = session.copy_object(key, std::slice::from_ref(&loosened));
        println!("copy: {}", said(copy));
        let set = session.update_attributes(key, &[loosened]);
        println!("change: {}", said(set));
    }
    let _ = session.destroy_object(own);
    Ok(())
}

fn said<T>(result: Result<T, cryptoki::error::Error>) -> String {
    match result {
        Ok(_) => "DONE".to_owned(),
        Err(error) => error.to_string(),
    }
}
