//! Tensor data in other files: from the model's own folder, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use onnx_grad::ReadError;
use onnx_grad::graph::{DataType, Graph, Tensor};

use crate::file::{external, graph, model, node};

/// A folder of its own for each test, empty.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("model")).unwrap();
    folder
}

/// Reads `model/model.onnx` with an initialiser `w` [2] that lies where `entries` say.
fn read(folder: &Path, entries: &[(&str, &str)]) -> Result<Graph, ReadError> {
    let path = folder.join("model").join("model.onnx");
    let graph = graph(&[node("Add", "add", &["x", "w"], &["y"])]).message(5, &external("w", &[2], entries));
    fs::write(&path, model(&graph).into_bytes()).unwrap();
    match Graph::read(&path) {
        Err(ReadError::File { path: named, source }) => {
            assert_eq!(named, path);
            Err(*source)
        }
        other => other,
    }
}

#[test]
fn data_in_the_models_folder_is_read() {
    let folder = folder("good");
    fs::write(folder.join("model/data"), 1_f32.to_le_bytes().repeat(4)).unwrap();
    let expected = Tensor { dtype: DataType::F32, dims: vec![2], bytes: 1_f32.to_le_bytes().repeat(2) };
    for entries in [
        &[("location", "data")][..],
        &[("location", "data"), ("offset", "8"), ("length", "8"), ("checksum", "?")],
    ] {
        assert_eq!(read(&folder, entries).unwrap().initializers["w"], expected);
    }
}

#[test]
fn data_elsewhere_is_not() {
    let folder = folder("elsewhere");
    fs::write(folder.join("secret"), [0; 8]).unwrap();
    fs::create_dir(folder.join("model/sub")).unwrap();
    fs::write(folder.join("model/sub/data"), [0; 8]).unwrap();
    let absolute = folder.join("secret");
    for location in [
        "../secret",
        "./../secret",
        "sub/../../secret",
        "sub/data",
        "./data",
        "data/",
        ".",
        "..",
        "/",
        "",
        "/dev/zero",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        "sub",
    ] {
        let error = read(&folder, &[("location", location)]).unwrap_err();
        assert!(
            matches!(&error, ReadError::ExternalLocation { location: l, .. } if l == location),
            "{location}: {error}"
        );
    }
    assert!(matches!(read(&folder, &[]), Err(ReadError::ExternalLocation { .. })));
    assert!(matches!(read(&folder, &[("location", "missing")]), Err(ReadError::Io { .. })));
    assert!(matches!(read(&folder, &[("location", "nul\0byte")]), Err(ReadError::Io { .. })));
}

#[cfg(unix)]
#[test]
fn links_and_what_is_no_file_are_not_followed() {
    let folder = folder("links");
    fs::write(folder.join("secret"), [0; 8]).unwrap();
    fs::write(folder.join("model/data"), [0; 8]).unwrap();
    let link =
        |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.join("model").join(name)).unwrap();
    link("../secret", "out");
    link("/dev/zero", "device");
    link("data", "within");
    link("loop", "loop");
    std::os::unix::net::UnixListener::bind(folder.join("model/socket")).unwrap();
    for location in ["out", "device", "within", "loop", "socket"] {
        let refused = read(&folder, &[("location", location)]);
        assert!(matches!(refused, Err(ReadError::ExternalLocation { .. })), "{location}");
    }
}

#[test]
fn places_beyond_the_file_are_named() {
    let folder = folder("beyond");
    fs::write(folder.join("model/data"), [0; 12]).unwrap();
    let refused = |offset: &str, length: &str| {
        read(&folder, &[("location", "data"), ("offset", offset), ("length", length)]).unwrap_err()
    };
    assert!(matches!(refused("5", "8"), ReadError::TensorSize { expected: 8, found: 7, .. }));
    assert!(matches!(refused("13", "8"), ReadError::TensorSize { expected: 8, found: 0, .. }));
    assert!(matches!(refused("18446744073709551615", "8"), ReadError::TensorSize { found: 0, .. }));
    assert!(matches!(refused("0", "12"), ReadError::TensorSize { expected: 8, found: 12, .. }));
    assert!(matches!(refused("0", "18446744073709551615"), ReadError::TensorSize { .. }));
    for number in ["-1", "8.0", "", "0x8", "99999999999999999999"] {
        assert!(matches!(refused(number, "8"), ReadError::ExternalLocation { .. }), "{number}");
        assert!(matches!(refused("0", number), ReadError::ExternalLocation { .. }), "{number}");
    }
}

#[test]
fn bytes_alone_have_no_folder() {
    let tensor = external("w", &[2], &[("location", "Cargo.toml")]);
    let with_data = graph(&[node("Add", "add", &["x", "w"], &["y"])]).message(5, &tensor);
    let decoded = Graph::decode(&model(&with_data).into_bytes());
    assert!(matches!(decoded, Err(ReadError::NoFolder { name, .. }) if name == "w"));
}

#[test]
fn one_place_does_not_serve_for_endless_tensors() {
    let folder = folder("many");
    fs::File::create(folder.join("model/data")).unwrap().set_len(1 << 30).unwrap();
    let place = |name: &str| external(name, &[1 << 28], &[("location", "data")]);
    let nodes = graph(&[node("Relu", "r", &["x"], &["y"])]);
    let path = folder.join("model").join("model.onnx");
    fs::write(&path, model(&nodes.message(5, &place("v")).message(5, &place("w"))).into_bytes()).unwrap();
    let Err(ReadError::File { source, .. }) = Graph::read(&path) else { panic!("2 GiB") };
    assert!(
        matches!(*source, ReadError::Limit { found: 0x8000_0000, name: "MAX_FILE_BYTES", .. }),
        "{source}"
    );
}

#[test]
fn a_model_is_a_regular_file() {
    let folder = folder("irregular");
    assert!(matches!(Graph::read(&folder), Err(ReadError::NotAFile { path }) if path == folder));
    assert!(matches!(Graph::read(Path::new("/dev/zero")), Err(ReadError::NotAFile { .. })));
    assert!(matches!(Graph::read(&folder.join("missing")), Err(ReadError::Io { .. })));
    let huge = folder.join("huge.onnx");
    fs::File::create(&huge).unwrap().set_len(1 << 31).unwrap();
    assert!(matches!(Graph::read(&huge), Err(ReadError::TooLarge { .. })));
}
