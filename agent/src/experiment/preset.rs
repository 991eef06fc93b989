//! The experiments as a table, and the settings of the networks that they train.
//!
//! Hyperparameters are those of A. Zuppolini's master's thesis (University of Pisa, etd-03092023-161823) and of the
//! code that belongs to it; `docs/experiment-presets.md` says where each figure comes from.

/// What an experiment compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Design {
    /// A continual student beside a frozen teacher; the control is the same student without.
    Guided {
        /// Whether the teacher's network after experience i teaches experience i; else its final one teaches all.
        by_experience: bool,
    },
    /// Continual learners that teach each other over a broker; the control is the same learners without exchange.
    Exchange,
    /// Every strategy on the same stream, without a teacher.
    Strategies,
    /// A teacher for other experiments.
    Teacher,
}

/// One experiment.
#[derive(Debug)]
pub struct Preset {
    pub name: &'static str,
    pub design: Design,
    /// What it answers, as the report's heading.
    pub question: &'static str,
    pub student: Recipe,
    /// Trained first, where the user brings none.
    pub teacher: Option<&'static str>,
}

/// How a network is trained: what differs from the regime that all share, for the whole of CIFAR-100.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// `student`, or the name of a kind of teacher.
    pub name: &'static str,
    pub network: &'static str,
    /// New samples in a mini-batch where an experience has [`super::scale::FULL_EXPERIENCE`] of them.
    pub batch_size: usize,
    /// Whether earlier samples are kept and replayed, 4 % of the training samples.
    pub replay: bool,
    /// Keys of `AGENT.toml`, epochs as for the whole of CIFAR-100.
    pub toml: &'static str,
}

/// Keys that count epochs, and so shrink with them.
pub const EPOCH_KEYS: [&str; 7] = [
    "train.epochs",
    "train.pretrain_epochs",
    "train.schedule.every",
    "train.schedule.warmup_epochs",
    "train.early_stopping.patience",
    "strategy.finetune_epochs",
    "exchange.refresh_epochs",
];

pub static PRESETS: [Preset; 5] = [
    Preset {
        name: "cifar100-training",
        design: Design::Guided { by_experience: false },
        question: "Can a teacher that knows all classes guide a continual student?",
        student: Recipe {
            toml: "
                strategy.name = 'replay'
                data.cutmix = 0.5
                train.epochs = 300
                train.learning_rate = 0.001
                train.optimizer.name = 'adam'
                train.distill = { loss = 'mse', weight = 5.0, temperature = 2.0 }
            ",
            ..STUDENT
        },
        teacher: Some("joint"),
    },
    Preset {
        name: "splitcifar100-pretrained",
        design: Design::Guided { by_experience: true },
        question: "Can a continual teacher, one checkpoint for each experience, guide a continual student?",
        student: Recipe {
            toml: "
                strategy.name = 'replay'
                train.epochs = 800
                train.learning_rate = 0.01
                train.optimizer.name = 'adam'
                train.distill = { loss = 'mse', weight = 0.5, temperature = 2.0 }
            ",
            ..STUDENT
        },
        teacher: Some("lwf"),
    },
    Preset {
        name: "step-training",
        design: Design::Exchange,
        question: "Can continual learners, each with classes in its own order, teach each other?",
        student: Recipe {
            toml: "
                strategy.name = 'replay'
                train.epochs = 800
                train.learning_rate = 0.01
                train.optimizer.name = 'adam'
                train.distill = { loss = 'mse', weight = 0.01 }
                exchange = { refresh_epochs = 10, wait_at_most_s = 300.0, linger_s = 86400.0 }
            ",
            ..STUDENT
        },
        teacher: None,
    },
    Preset {
        name: "strategies",
        design: Design::Strategies,
        question: "How far does each strategy come on the same stream, without any teacher?",
        student: Recipe {
            toml: "
                train.epochs = 100
                train.learning_rate = 0.001
                train.optimizer.name = 'adam'
            ",
            ..STUDENT
        },
        teacher: None,
    },
    Preset {
        name: "teacher",
        design: Design::Teacher,
        question: "How good is the teacher by itself?",
        // In its place comes the kind of teacher that is asked for.
        student: JOINT,
        teacher: None,
    },
];

/// What all students share.
const STUDENT: Recipe =
    Recipe { name: "student", network: "slim-resnet18", batch_size: 256, replay: true, toml: "" };

const JOINT: Recipe = Recipe {
    name: "joint",
    network: "resnet34",
    batch_size: 256,
    replay: false,
    toml: "
        strategy.name = 'joint'
        train.epochs = 200
        train.learning_rate = 0.001
        train.optimizer.name = 'adam'
        train.schedule = { name = 'cosine' }
    ",
};

/// Kinds of teachers.
pub static TEACHERS: [Recipe; 3] = [
    JOINT,
    Recipe {
        name: "lwf",
        network: "slim-resnet18",
        batch_size: 128,
        replay: true,
        toml: "
            strategy = { name = 'lwf', alpha = 1.0, temperature = 2.0 }
            train.epochs = 100
            train.learning_rate = 0.01
            train.optimizer.name = 'adam'
            train.schedule = { name = 'step', every = 40, gamma = 0.1 }
        ",
    },
    Recipe {
        name: "eeil",
        network: "resnet32",
        batch_size: 128,
        replay: true,
        toml: "
            strategy = { name = 'eeil', alpha = 1.0, temperature = 2.0, finetune_epochs = 30, finetune_from = 3, \
             finetune_rate = 0.1, noise_eta = 0.3, noise_gamma = 0.55 }
            replay.selection = 'herding'
            train.epochs = 100
            train.learning_rate = 0.1
            train.optimizer = { name = 'sgd', momentum = 0.9, weight_decay = 0.0001 }
            train.schedule = { name = 'step', every = 30, gamma = 0.1 }
        ",
    },
];

pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

pub fn teacher(name: &str) -> Option<&'static Recipe> {
    TEACHERS.iter().find(|recipe| recipe.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_toml_and_names_its_epochs() {
        let recipes = PRESETS.iter().map(|p| &p.student).chain(&TEACHERS);
        for recipe in recipes {
            let table: toml::Table =
                toml::from_str(recipe.toml).unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
            assert!(table["train"]["epochs"].as_integer().unwrap() >= 100, "{}", recipe.name);
            assert!(dkt_models::zoo::find(recipe.network).is_ok(), "{}", recipe.network);
        }
    }

    #[test]
    fn every_preset_finds_its_teacher() {
        for preset in &PRESETS {
            assert_eq!(find(preset.name).unwrap().name, preset.name);
            assert!(preset.teacher.is_none_or(|name| teacher(name).is_some()), "{}", preset.name);
            let is_guided = matches!(preset.design, Design::Guided { .. });
            assert_eq!(preset.teacher.is_some(), is_guided, "{}", preset.name);
        }
    }
}
