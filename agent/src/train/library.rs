//! Where the ONNX Runtime library is, and what it is told before it loads.

use std::path::{Path, PathBuf};

/// Environment variable with the path of the ONNX Runtime library.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";
const NAME: &str = "libonnxruntime.so";

/// Opts out of ONNX Runtime's telemetry (sent by default from 1.29 on). The library reads the variable when
/// it is loaded, so this must be the first thing that the process does.
#[allow(unsafe_code)]
pub fn disable_telemetry() {
    // SAFETY: called as the first statement of `main`, before any other thread exists.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

/// The library's path, or those that were looked at.
pub(super) fn find() -> Result<PathBuf, Vec<PathBuf>> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            // A relative path would be tried relative to the executable first.
            Ok(std::path::absolute(&path).unwrap_or(path))
        } else {
            Err(vec![path])
        };
    }
    let folder = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let searched: Vec<PathBuf> =
        folder.iter().flat_map(|dir| [dir.join(NAME), dir.join("../lib/dkt").join(NAME)]).collect();
    searched.iter().find(|p| p.is_file()).cloned().ok_or(searched)
}
