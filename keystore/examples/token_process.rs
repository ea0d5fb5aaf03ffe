//! The process that asks a token, by itself: for the tests of this package, whose own program is not `castellum`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keystore::unlock::run_token_process()
}
