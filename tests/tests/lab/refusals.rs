//! What the program refuses: each with its exit code and one line that says what is wrong, before anything starts.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use dkt_agent::config::{AgentConfig, OptimizerConfig, TlsConfig};
use dkt_models::zoo::{self, BuildOptions};
use dkt_tests::broker::free_port;
use dkt_tests::certs::Certificates;
use dkt_tests::process::{Output, run};
use dkt_tests::{config, repository};
use onnx_grad::graph::Graph;
use tempfile::TempDir;

use crate::dkt;

/// Checks the exit code and that the one line on standard error has all of `says`.
pub fn check(what: &str, output: &Output, code: i32, says: &[&str]) {
    assert_eq!(output.code, Some(code), "{what}: {output:?}");
    assert_eq!(output.stdout, "", "{what}");
    // Whoever waits for a connection says so before.
    let lines = output.stderr.lines().filter(|line| !line.contains(" s  alice: connecting to "));
    let lines: Vec<&str> = lines.collect();
    let [line] = lines[..] else { panic!("{what}: expected one line, found {lines:#?}") };
    assert!(line.starts_with("dkt: "), "{what}: {line}");
    for text in says {
        assert!(line.contains(text), "{what}: expected `{text}` in: {line}");
    }
    assert!(!line.contains("panicked"), "{what}: {line}");
}

/// A folder, and what runs in it.
pub struct Case {
    pub folder: TempDir,
}

impl Case {
    pub fn new() -> Self {
        Case { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs an agent without exchange, changed by `change`.
    pub fn agent(&self, change: impl FnOnce(&mut AgentConfig)) -> Output {
        let mut config = config::alone(self.folder.path(), "alice");
        change(&mut config);
        self.run(&config::write(self.folder.path(), &config))
    }

    /// Runs an agent by the text of its configuration.
    pub fn text(&self, text: &str) -> Output {
        let file = self.path("agent.toml");
        fs::write(&file, text).unwrap();
        self.run(&file)
    }

    fn run(&self, file: &Path) -> Output {
        let mut command = dkt(["run".as_ref(), file.as_os_str()]);
        command.current_dir(self.folder.path());
        run(command)
    }

    /// Runs an agent with that network.
    fn network(&self, graph: &Graph) -> Output {
        let file = self.path("network.onnx");
        fs::write(&file, graph.encode()).unwrap();
        self.agent(|c| c.model.network = file.display().to_string())
    }
}

fn digits_cnn(classes: usize, input: [usize; 3]) -> Graph {
    zoo::build("digits-cnn", &BuildOptions { seed: 1, classes, input }).unwrap()
}

#[test]
fn configurations_are_refused_with_the_file_and_the_key() {
    let case = Case::new();
    let check = |text: &str, says: &[&str]| {
        let output = case.text(text);
        let file = case.path("agent.toml").display().to_string();
        check(text, &output, 78, &[&[file.as_str()], says].concat());
    };
    let name = "agent = \"alice\"\nfleet = \"lab\"\n";
    check(&format!("{name}[train]\nepoch = 3"), &["line 4", "unknown field `epoch`", "epochs"]);
    check(&format!("{name}[learning]\nepochs = 3"), &["line 3", "unknown field `learning`"]);
    check("fleet = \"lab\"", &["missing field `agent`"]);
    check(&format!("{name}[train"), &["line 3"]);
    check(&format!("{name}[train]\nepochs = \"many\""), &["line 4", "expected u32"]);
    check("agent = \"Alice\"\nfleet = \"lab\"", &["line 1", "found `Alice`", "a-z, 0-9"]);
    check(&format!("{name}[train]\ndevice = \"gpu\""), &["line 4", "cpu, cuda or cuda:<index>", "`gpu`"]);
    check(&format!("{name}[train]\nepochs = 0"), &["`train.epochs` must be between 1 and 1000000, found 0"]);
    check(&format!("{name}[train]\nlearning_rate = -0.1"), &["`train.learning_rate`", "positive", "-0.1"]);
    check(
        &format!("{name}[exchange]\nchunk_bytes = 9"),
        &["`exchange.chunk_bytes`", "between 1024", "found 9"],
    );
    let exchange = |text| format!("{name}[exchange]\n{text}");
    check(&exchange("encoding = { top_k = 0 }"), &["`exchange.encoding`", "top_k from 1 to 4096"]);
    check(&exchange("encoding = \"f64\""), &["line 4", "unknown variant `f64`"]);
    check(&exchange("delta = 1.5"), &["`exchange.delta`", "a share from 0 to 1", "found 1.5"]);
    check(&exchange("delta = nan"), &["`exchange.delta`", "found NaN"]);
    check(&exchange("views = 5"), &["`exchange.views`", "at most `data.views`", "found 5"]);
    check(
        &format!("{name}[train]\nprecision = \"f16\""),
        &["`train.precision` must be \"f32\" on the device cpu", "found \"f16\""],
    );
    check(
        &format!("{name}[train]\nclip_value = 1.0\nclip_norm = 1.0"),
        &["`train.clip_norm` must be left out where clip_value is given"],
    );
    check(&format!("{name}[train]\nfreeze = [\"a[\"]"), &["line 4", "glob pattern", "`a[`"]);
    check(&format!("{name}[exchange]\nbroker = \"mqtts://lab\""), &["`exchange.tls`", "mqtts://lab"]);
}

#[test]
fn streams_that_do_not_divide_are_refused() {
    let case = Case::new();
    let output = case.agent(|c| c.stream.experiences = 3);
    check("three experiences", &output, 78, &["10 classes do not divide into 3 experiences"]);
    let output = case.agent(|c| c.stream.class_order = dkt_agent::stream::ClassOrder::List(vec![1, 2]));
    check("two classes", &output, 78, &["expected every class from 0 to 9 once, found [1, 2]"]);
}

#[test]
fn files_that_are_not_there_are_named() {
    let case = Case::new();
    let missing = case.path("missing");
    let name = missing.display().to_string();
    for arguments in [
        vec!["run", &name],
        vec!["testbed", &name],
        vec!["eval", &name, "--data", "digits"],
        vec!["model", "inspect", &name],
        vec!["model", "derive", &name, "-o", "x.onnx"],
        vec!["model", "attach-heads", &name, "-o", "x.onnx"],
    ] {
        check(&format!("{arguments:?}"), &run(dkt(&arguments)), 66, &[&name]);
    }
    let network = case.path("missing.onnx").display().to_string();
    check("no network", &case.agent(|c| c.model.network = network.clone()), 66, &[&network]);
    check(
        "no data",
        &case.agent(|c| c.data.source = name.clone()),
        66,
        &[&format!("no data at `{name}`: it is neither `digits`, which is built in, nor a path that exists")],
    );
    fs::create_dir(&missing).unwrap();
    let output = case.agent(|c| c.data.source = name.clone());
    check(
        "a folder without data",
        &output,
        65,
        &[&name, "no data set that is known", "train-images-idx3-ubyte"],
    );
    let tls = |file: &str| dkt_agent::config::TlsConfig {
        ca: case.path(file),
        cert: case.path("no.pem"),
        key: case.path("no.key"),
    };
    let output = case.agent(|c| {
        c.exchange.enabled = true;
        c.exchange.broker = "mqtts://127.0.0.1:1".to_owned();
        c.exchange.tls = Some(tls("no-ca.pem"));
    });
    check("no certificate", &output, 66, &["no-ca.pem"]);
}

#[test]
fn damaged_data_is_refused_with_what_was_expected() {
    let case = Case::new();
    let data = case.path("data");
    fs::create_dir(&data).unwrap();
    let digits = |name: &str| fs::read(repository("agent/data/digits").join(name)).unwrap();
    for split in ["train", "t10k"] {
        fs::write(data.join(format!("{split}-images-idx3-ubyte")), digits("images-idx3-ubyte")).unwrap();
        fs::write(data.join(format!("{split}-labels-idx1-ubyte")), digits("labels-idx1-ubyte")).unwrap();
    }
    let cut = data.join("train-images-idx3-ubyte");
    let whole = fs::read(&cut).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let source = data.display().to_string();
    let output = case.agent(|c| c.data.source = source.clone());
    let n_bytes = 1797 * 64;
    let expected = format!("expected {n_bytes} bytes of data, found {}", n_bytes - 1);
    check("a byte too few", &output, 65, &[&cut.display().to_string(), &expected]);
    fs::write(&cut, b"GIF89a").unwrap();
    let output = case.agent(|c| c.data.source = source.clone());
    check("a picture", &output, 65, &[&cut.display().to_string(), "an IDX file"]);
}

#[test]
fn networks_that_cannot_be_trained_are_refused_with_every_node() {
    let mut graph = digits_cnn(10, [1, 8, 8]);
    let changed = graph.nodes.iter_mut().filter(|n| n.op == "Relu").take(2);
    let names: Vec<String> = changed
        .map(|node| {
            node.op = "Det".to_owned();
            format!("`Det` (ai.onnx opset 17) at node `{}`", node.name)
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(names.len(), 2);
    check(
        "two nodes",
        &Case::new().network(&graph),
        65,
        &[&["no derivative rule"], names.as_slice()].concat(),
    );
}

#[test]
fn networks_that_do_not_fit_are_refused_with_what_to_do() {
    let case = Case::new();
    let mut classifier = digits_cnn(10, [1, 8, 8]);
    classifier.outputs.truncate(1);
    check(
        "one head",
        &case.network(&classifier),
        65,
        &["`cl_logits` and `st_logits`", "dkt model attach-heads"],
    );
    let output = case.network(&digits_cnn(5, [1, 8, 8]));
    check("five classes", &output, 65, &["a number of classes of 5, found 10", "network.onnx", "digits"]);
    let output = case.network(&digits_cnn(10, [3, 8, 8]));
    check("three channels", &output, 65, &["[3, 8, 8]", "[1, 8, 8]", "network.onnx"]);
    let output = case.agent(|c| c.model.network = "resnet1000".to_owned());
    check("an unknown name", &output, 65, &["`resnet1000`", "digits-cnn", "resnet34"]);
    let file = case.path("text.onnx");
    fs::write(&file, "not a network").unwrap();
    let output = case.agent(|c| c.model.network = file.display().to_string());
    check("a text", &output, 65, &["text.onnx", "not an ONNX file"]);
    fs::write(&file, digits_cnn(10, [1, 8, 8]).encode()).unwrap();
    let file = file.display().to_string();
    let output = run(dkt(["model", "attach-heads", &file, "-o", "x.onnx"]));
    check("two heads", &output, 65, &["has two heads already"]);
}

#[test]
fn names_that_a_network_does_not_have_are_refused_with_their_key() {
    let case = Case::new();
    let check = |key: &str, says: &str, text: &str| {
        let text = format!("agent = \"alice\"\nfleet = \"f\"\nexchange.enabled = false\n[train]\n{text}");
        check(key, &case.text(&text), 78, &[&format!("`{key}` does not fit the network: {says}")]);
    };
    check("train.freeze", "no trainable parameter matches `conv9*`", "freeze = [\"conv1*\", \"conv9*\"]");
    check("train.freeze", "no parameter is left to train", "freeze = [\"*\"]");
    check("train.groups", "no trainable parameter matches `conv9*`", "groups = [{ match = \"conv9*\" }]");
    check("train.recompute", "`layer9*` is to be recomputed", "recompute = [\"layer9*\"]");
}

#[test]
fn options_of_a_derivation_that_do_not_fit_are_refused_in_one_line() {
    let case = Case::new();
    let (file, train) = (case.path("network.onnx"), case.path("train.onnx"));
    fs::write(&file, digits_cnn(10, [1, 8, 8]).encode()).unwrap();
    let derive = |options: &[&str], code: i32, says: &[&str]| {
        let mut command = dkt(["model", "derive"]);
        command.arg(&file).arg("-o").arg(&train).args(options);
        check(&format!("{options:?}"), &run(command), code, says);
        assert!(!train.exists(), "{options:?}: nothing is written");
    };
    derive(&["--freeze", "conv9*"], 65, &["no trainable parameter matches `conv9*`", "--parameters"]);
    derive(&["--group", "conv9*:lr=0.1"], 65, &["no trainable parameter matches `conv9*`"]);
    derive(&["--recompute", "layer9*"], 65, &["`layer9*` is to be recomputed"]);
    derive(&["--logits", "cl_logits", "--loss", "mse"], 2, &["--logits needs --loss cross-entropy"]);
    derive(&["--t2"], 2, &["--t2 needs --loss kl"]);
    derive(&["--kl-reduction", "batchmean"], 2, &["--kl-reduction needs --loss kl"]);
    derive(&["--momentum", "0.5"], 2, &["--momentum needs --optimizer sgd or rmsprop"]);
    derive(&["--loss", "cross-entropy", "--logits", "no"], 65, &["expected `no`", "`cl_logits` float32"]);
    derive(&["--state", &train.display().to_string()], 2, &["train.onnx", "would be overwritten"]);
    derive(&["--state", &file.display().to_string()], 2, &["network.onnx", "would be overwritten"]);
    let missing = case.path("no/state.safetensors").display().to_string();
    let output = run({
        let mut command = dkt(["model", "derive"]);
        command.arg(&file).arg("-o").arg(&train).args(["--state", &missing]);
        command
    });
    assert_eq!(output.code, Some(74), "{output:?}");
    assert!(output.stderr.contains("cannot write"), "{output:?}");
}

#[test]
fn what_cannot_be_checked_is_refused_with_the_reason() {
    let case = Case::new();
    let file = case.path("network.onnx");
    let refused = |graph: &Graph, code: i32, says: &[&str]| {
        fs::write(&file, graph.encode()).unwrap();
        let output = run(dkt(["model".as_ref(), "check".as_ref(), file.as_os_str()]));
        check(&format!("{says:?}"), &output, code, says);
    };
    let mut unknown = digits_cnn(10, [1, 8, 8]);
    unknown.nodes.iter_mut().find(|n| n.op == "Relu").unwrap().op = "Nonsense".to_owned();
    refused(&unknown, 65, &["`Nonsense`", "models/onnx-grad/OPS.md"]);
    let mut training = digits_cnn(10, [1, 8, 8]);
    training.metadata.insert(onnx_grad::CONTRACT_KEY.to_owned(), "2".to_owned());
    refused(&training, 65, &["this is a training step"]);
    let mut constant = digits_cnn(10, [1, 8, 8]);
    constant.outputs.truncate(1);
    constant.outputs[0].shape.push(3.into());
    refused(&constant, 65, &["expected logits of float32 [batch, classes]"]);
}

#[test]
fn a_broker_that_is_not_there_is_named_in_the_time_allowed() {
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let output = Case::new().agent(|c| {
        c.exchange.enabled = true;
        c.exchange.broker.clone_from(&url);
        c.exchange.connect_timeout_s = 1.0;
    });
    check("no broker", &output, 69, &[&url, "within 1 s", "is it running there?"]);
}

#[test]
fn an_address_that_is_none_is_a_wrong_configuration() {
    for url in ["tcp://127.0.0.1:1883", "127.0.0.1:1883", "mqtt://", "mqtt://lab:port"] {
        let output = Case::new().agent(|c| {
            c.exchange.enabled = true;
            c.exchange.broker = url.to_owned();
        });
        check(url, &output, 78, &[url, "expected mqtt://host[:port]"]);
    }
}

#[test]
fn an_agent_never_falls_back_to_another_device() {
    // No machine has a device of that number, whatever its ONNX Runtime was built for.
    let output = Case::new().agent(|c| c.train.device = "cuda:99".parse().unwrap());
    check("no such device", &output, 69, &["device `cuda:99` cannot be used", "train.device = \"cpu\""]);
}

#[test]
fn a_missing_runtime_library_is_named_with_what_brings_one() {
    let case = Case::new();
    let file = config::write(case.folder.path(), &config::alone(case.folder.path(), "alice"));
    let with = |library: &Path| {
        let mut command = dkt(["run".as_ref(), file.as_os_str()]);
        command.env("ORT_DYLIB_PATH", library);
        run(command)
    };
    let library = case.path("libonnxruntime.so");
    let name = library.display().to_string();
    check("no library", &with(&library), 69, &[&name, "make build", "1.17"]);
    fs::write(&library, "not a library").unwrap();
    check("not a library", &with(&library), 69, &[&name, "cannot load ONNX Runtime", "1.17"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let case = Case::new();
    fs::write(case.path("taken"), "").unwrap();
    let output = case.agent(|c| c.out = Some(case.path("taken/alice")));
    check("a file in the way", &output, 74, &["cannot create", "taken/alice"]);
}

#[test]
fn a_loss_that_is_no_number_ends_an_agent_with_advice() {
    let output = Case::new().agent(|c| {
        c.train.learning_rate = 1e30;
        c.train.clip_norm = 0.0;
    });
    assert_eq!(output.code, Some(78), "{output:?}");
    assert_eq!(output.stdout, "");
    let last = output.stderr.lines().last().unwrap();
    assert!(
        last.contains("expected a finite loss") && last.contains("a lower learning rate may help"),
        "{last}"
    );
}

#[test]
fn a_broker_needs_a_port_of_its_own() {
    let taken = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(dkt(["broker", "--listen", &address]));
    check("a port that is taken", &output, 69, &["cannot start a broker", &address]);
}

#[test]
fn data_and_model_of_an_evaluation_must_fit() {
    let case = Case::new();
    let model = |graph: Graph| {
        fs::write(case.path("model.onnx"), graph.encode()).unwrap();
        let file = case.path("model.onnx");
        run(dkt(["eval".as_ref(), file.as_os_str(), "--data".as_ref(), "digits".as_ref()]))
    };
    let output = model(digits_cnn(10, [3, 8, 8]));
    check("another size", &output, 65, &["[3, 8, 8]", "[1, 8, 8]"]);
    check("other classes", &model(digits_cnn(7, [1, 8, 8])), 65, &["has 7 classes, the data 10"]);
}

#[test]
fn values_outside_their_range_are_refused_with_the_range() {
    let case = Case::new();
    let check = |key: &str, expected: &str, change: fn(&mut AgentConfig)| {
        check(key, &case.agent(change), 78, &[key, expected]);
    };
    check("train.threads", "between 1 and 1024, found 20000", |c| c.train.threads = 20_000);
    check("train.batch_size", "between 1 and 65536, found 65537", |c| c.train.batch_size = 65_537);
    check("train.optimizer", "beta1 and beta2 from 0 to below 1", |c| {
        c.train.optimizer = OptimizerConfig::Adam { beta1: 1.0, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    });
    check("exchange.teachers", "names of other agents, found its own, `alice`", |c| {
        c.exchange.teachers = vec![c.agent.clone()];
    });
    check("data.crop_padding", "smaller side of the images (1x8x8), found 8", |c| c.data.crop_padding = 8);
}

#[test]
fn a_folder_with_the_results_of_others_is_not_written_to() {
    let case = Case::new();
    let out = case.path("lab");
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".dkt-testbed"), "").unwrap();
    let output = case.agent(|c| c.out = Some(out.clone()));
    check("a testbed's folder", &output, 78, &["`out`", "with the results of a testbed"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing was written");

    let busy = case.path("busy");
    let mut config = config::alone(case.folder.path(), "alice");
    config.out = Some(busy.clone());
    config.train.epochs = 100_000;
    let mut first = crate::start(&config);
    first.started();
    check("another run's folder", &case.agent(|c| c.out = Some(busy)), 69, &["in use by another run"]);
    first.terminate();
    assert_eq!(first.end().code, Some(0));
}

#[test]
fn a_network_is_not_overwritten_by_what_is_made_of_it() {
    let case = Case::new();
    let file = case.path("network.onnx");
    let bytes = digits_cnn(10, [1, 8, 8]).encode();
    fs::write(&file, &bytes).unwrap();
    for command in ["derive", "attach-heads"] {
        let output =
            run(dkt(["model".as_ref(), command.as_ref(), file.as_os_str(), "-o".as_ref(), file.as_os_str()]));
        check(command, &output, 2, &["network.onnx", "would be overwritten"]);
        assert_eq!(fs::read(&file).unwrap(), bytes, "{command}");
    }
    let train = case.path("train.onnx");
    let derived =
        run(dkt(["model".as_ref(), "derive".as_ref(), file.as_os_str(), "-o".as_ref(), train.as_os_str()]));
    assert_eq!(derived.code, Some(0), "{derived:?}");
    let output = case.agent(|c| c.model.network = train.display().to_string());
    check("a training step", &output, 65, &["this is a training step; give the forward file"]);
}

#[test]
fn wrong_tls_files_are_named_before_anything_connects() {
    let case = Case::new();
    let certificates = Certificates::make(&case.path("certs"), &["alice", "bob"]);
    let rubbish = case.path("rubbish.pem");
    fs::write(&rubbish, "rubbish").unwrap();
    let check = |what: &str, says: &[&str], change: &dyn Fn(&mut TlsConfig)| {
        let mut tls = certificates.of("alice");
        change(&mut tls);
        let output = case.agent(|c| {
            c.exchange.enabled = true;
            c.exchange.broker = format!("mqtts://127.0.0.1:{}", free_port());
            c.exchange.tls = Some(tls);
        });
        check(what, &output, 78, says);
    };
    check("no authority", &["rubbish.pem", "expected PEM certificates"], &|tls| tls.ca = rubbish.clone());
    check("no key", &["rubbish.pem", "expected a private key"], &|tls| tls.key = rubbish.clone());
    let bobs = certificates.of("bob").key;
    check("another's key", &["cannot be used together"], &|tls| tls.key = bobs.clone());
    let not_hers = ["bob/cert.pem`: expected the agent's name `alice` as its common name, found `bob`"];
    check("another's certificate", &not_hers, &|tls| *tls = certificates.of("bob"));
    let expired = certificates.sign("expired", "alice", (2020, 2021));
    let ended =
        ["expected one that is good today, ", "found one from 2020-01-01 to 2021-01-01", "dkt keys renew"];
    check("a certificate that has ended", &ended, &|tls| *tls = expired.clone());
    let broken = case.path("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").unwrap();
    check("no certificate", &["broken.pem`: expected a certificate"], &|tls| tls.cert = broken.clone());
}

#[test]
fn a_password_in_an_address_is_refused_and_not_shown() {
    let output = Case::new().agent(|c| {
        c.exchange.enabled = true;
        c.exchange.broker = "mqtt://alice:secret@lab".to_owned();
    });
    check("a password", &output, 78, &["are not supported"]);
    assert!(!output.stderr.contains("secret"), "{}", output.stderr);
}
