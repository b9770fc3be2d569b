//! Model directories: what is read, and what is refused by name.

use haul_kernels::attention::Sees;
use std::path::{Path, PathBuf};

use haul_encoder::embedder::{Embedder, LoadError};
use haul_encoder::identity::identity;
use haul_encoder::model::{Architecture, ModelConfig};
use haul_encoder::model_dir::{ModelDir, ModelError};
use haul_encoder::pooling::PoolMode;
use haul_encoder::weights::WeightsError;
use haul_kernels::isa::Isa;
use serde_json::{Value, json};

use crate::common::{Copy, cpu, golden_file, minilm_dir, tiny_dir};

#[test]
fn the_tiny_model_is_what_its_files_say() {
    let model = ModelDir::open(&tiny_dir()).unwrap();
    assert_eq!(model.name, "tiny-bert");
    assert_eq!((model.dim(), model.max_tokens, model.normalize), (32, 48, true));
    assert_eq!(model.pooling.modes, [PoolMode::Mean]);
    assert_eq!(
        (model.prompts.query(), model.prompts.document(), model.prompts.default_prompt()),
        ("query: ", "", "")
    );
    assert_eq!(model.config.layer_norm_eps, 1e-3);
}

#[cfg(unix)]
#[test]
fn a_linked_model_keeps_the_name_of_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("my-model");
    std::os::unix::fs::symlink(tiny_dir(), &link).unwrap();
    let model = ModelDir::open(&link).unwrap();
    assert_eq!(model.name, "my-model");
    assert_eq!(identity(&model).unwrap(), identity(&ModelDir::open(&tiny_dir()).unwrap()).unwrap());
}

#[test]
fn minilm_is_what_its_files_say() {
    let Some(dir) = minilm_dir() else { return };
    let model = ModelDir::open(&dir).unwrap();
    assert_eq!((model.dim(), model.max_tokens, model.normalize), (384, 256, true));
    assert_eq!((model.config.layers, model.config.heads, model.config.vocabulary_size), (6, 12, 30_522));
}

#[test]
fn a_missing_file_is_named() {
    for name in
        ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.safetensors"]
    {
        let copy = Copy::new().without(name);
        match copy.open().map(|_| ()).unwrap_err() {
            ModelError::Missing { path, .. } => assert!(path.ends_with(name), "{name}: {}", path.display()),
            other => panic!("{name}: {other}"),
        }
    }
    let copy = Copy::new().without("modules.json");
    let hint = copy.open().map(|_| ()).unwrap_err().hint().unwrap();
    assert!(hint.contains("never guessed"), "{hint}");
    assert!(matches!(ModelDir::open(Path::new("/no/such/model")), Err(ModelError::Read { .. })));
}

#[test]
fn other_weight_formats_are_named() {
    for name in ["pytorch_model.bin.index.json", "model.safetensors.index.json"] {
        let copy = Copy::new().without("model.safetensors");
        std::fs::write(copy.path().join(name), "").unwrap();
        assert!(copy.refusal().contains(name), "{}", copy.refusal());
    }
}

#[test]
fn contradictions_and_strangers_are_refused_by_name() {
    let module = |at: usize, key: &'static str, value: &'static str| {
        Copy::new().edit("modules.json", move |json| json[at][key] = value.into())
    };
    let config = |key: &str, value: Value| Copy::new().set("config.json", key, value);
    let pooling = |key: &str, value: Value| Copy::new().set("1_Pooling/config.json", key, value);
    let cases = [
        (config("model_type", "t5".into()), "model_type \"t5\""),
        (config("model_type", Value::Null), "model_type \"not given\""),
        (config("num_attention_heads", 5.into()), "5 does not divide hidden_size 32"),
        (config("num_attention_heads", 0.into()), "num_attention_heads is 0"),
        (config("hidden_size", (-32).into()), "config.json"),
        (config("hidden_size", Value::from(1u64 << 60)), "hidden_size is 1152921504606846976"),
        (config("num_hidden_layers", 1_000_000_000.into()), "num_hidden_layers is 1000000000"),
        (config("hidden_act", "mish".into()), "hidden_act is \"mish\""),
        (
            config("position_embedding_type", "relative_key".into()),
            "position_embedding_type is \"relative_key\"",
        ),
        (config("is_decoder", true.into()), "is_decoder"),
        (config("layer_norm_eps", (-1e-5).into()), "layer_norm_eps"),
        (config("vocab_size", 299.into()), "300 ids, config.json says vocab_size 299"),
        (
            config("max_position_embeddings", 47.into()),
            "max_seq_length 48 is more than the 47 tokens that have a position",
        ),
        (
            Copy::new().set("sentence_bert_config.json", "max_seq_length", 2.into()),
            "no room beside 2 special tokens",
        ),
        (Copy::new().set("tokenizer_config.json", "do_lower_case", false.into()), "do_lower_case is false"),
        (module(2, "type", "sentence_transformers.models.Dense"), "module Dense does not run"),
        (module(1, "type", "sentence_transformers.models.Normalize"), "Transformer, Normalize, Normalize"),
        (module(1, "path", "../elsewhere"), "../elsewhere"),
        (module(1, "path", "/etc"), "/etc"),
        (pooling("word_embedding_dimension", 64.into()), "pools vectors of 64"),
        (pooling("pooling_mode_mean_tokens", false.into()), "no pooling mode"),
        (pooling("pooling_mode_weightedmean_tokens", true.into()), "\"weightedmean\""),
        (pooling("pooling_mode", "attention".into()), "\"attention\""),
        (pooling("include_prompt", false.into()), "include_prompt"),
        (
            Copy::new().set("config_sentence_transformers.json", "default_prompt_name", "none".into()),
            "\"none\"",
        ),
    ];
    for (copy, expected) in cases {
        assert!(copy.refusal().contains(expected), "wanted {expected:?}: {}", copy.refusal());
    }
}

#[test]
fn weights_that_are_not_the_configurations_are_refused() {
    let load = |copy: &Copy| {
        let model = copy.open().unwrap();
        match Embedder::load(&model, &cpu(Isa::best(), 1)) {
            Err(LoadError::Weights(error)) => error,
            Err(LoadError::Device(haul_encoder::device::DeviceError::Weights(error))) => error,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let wider = Copy::new().set("config.json", "hidden_size", 64.into()).set(
        "1_Pooling/config.json",
        "word_embedding_dimension",
        64.into(),
    );
    assert!(matches!(load(&wider), WeightsError::Shape { .. }));
    let fewer = Copy::new().set("config.json", "num_hidden_layers", 1.into());
    assert!(matches!(load(&fewer), WeightsError::SurplusLayer { layers: 1, .. }));
    let more = Copy::new().set("config.json", "num_hidden_layers", 3.into());
    assert!(
        matches!(load(&more), WeightsError::Missing { tensor, .. } if tensor.starts_with("encoder.layer.2."))
    );
    let vast = Copy::new()
        .set("config.json", "hidden_size", (1 << 24).into())
        .set("config.json", "intermediate_size", (1 << 24).into())
        .set("1_Pooling/config.json", "word_embedding_dimension", (1 << 24).into());
    assert!(matches!(load(&vast), WeightsError::Shape { .. }));
}

/// A checkpoint of a task model has the base model's name before every name; the vectors are the same.
#[test]
fn names_with_a_prefix_are_the_same_model() {
    for (name, prefix) in [("tiny-bert", "bert."), ("tiny-xlmr", "roberta."), ("tiny-modernbert", "model.")] {
        let copy = Copy::of(name).edit_safetensors(|header, _| {
            *header = std::mem::take(header)
                .into_iter()
                .map(|(name, value)| {
                    (if name == "__metadata__" { name } else { format!("{prefix}{name}") }, value)
                })
                .collect();
        });
        let row = |dir: &Path| {
            let embedder = Embedder::load(&ModelDir::open(dir).unwrap(), &cpu(Isa::best(), 1)).unwrap();
            embedder.collect(embedder.submit(&[[2, 77, 150, 3]]).unwrap()).unwrap()
        };
        assert_eq!(row(copy.path()), row(&golden_file(name)));
    }
}

#[test]
fn the_families_are_what_their_files_say() {
    let open = |name: &str| Copy::of(name).open().unwrap();
    let xlmr = open("tiny-xlmr");
    assert_eq!((xlmr.config.max_tokens, xlmr.max_tokens, xlmr.dim()), (64, 48, 32));
    assert_eq!(xlmr.special_ids, [0, 1, 2, 3]);
    assert_eq!(xlmr.pooling.modes, [PoolMode::Cls]);
    let modern = open("tiny-modernbert");
    assert_eq!((modern.config.max_tokens, modern.max_tokens), (128, 48));
    assert_eq!(modern.special_ids, [0, 1, 2, 3]);
    let sees = |model: &ModelDir| match &model.config.architecture {
        Architecture::ModernBert(modern) => modern.attention.iter().map(|a| a.sees).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sees(&modern), [Sees::All, Sees::Near(8), Sees::Near(8), Sees::All]);
}

/// What bge-m3 ships: 8,194 positions are 8,192 tokens, and no file says otherwise.
#[test]
fn positions_begin_after_the_padding_id() {
    let config = |changes: Value| {
        let mut json = json!({
            "model_type": "xlm-roberta", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "type_vocab_size": 1,
            "max_position_embeddings": 8194, "vocab_size": 250_002, "pad_token_id": 1,
        });
        json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ModelConfig::from_json(json)
    };
    assert_eq!(config(json!({})).unwrap().max_tokens, 8192);
    for other in ["roberta", "camembert"] {
        let config = config(json!({"model_type": other, "max_position_embeddings": 514})).unwrap();
        assert_eq!(config.max_tokens, 512);
    }
    let refused = |changes: Value| config(changes).unwrap_err().to_string();
    assert!(refused(json!({"pad_token_id": 8193})).contains("pad_token_id 8193 leaves none"));
    assert!(refused(json!({"pad_token_id": 4_000_000_000u32})).contains("leaves none"));
}

#[test]
fn modernberts_that_do_not_run_are_refused_by_name() {
    let config = |key: &str, value: Value| Copy::of("tiny-modernbert").set("config.json", key, value);
    let rope = |kind: &str| json!({"full_attention": {"rope_type": kind, "rope_theta": 1000.0}});
    let cases = [
        (config("layer_types", json!(["full_attention"])), "length of layer_types is \"1\""),
        (
            config("layer_types", json!(["full_attention", "linear_attention", "x", "y"])),
            "\"linear_attention\"",
        ),
        (config("rope_parameters", rope("yarn")), "rope_type is \"yarn\""),
        (config("rope_scaling", json!({"type": "linear"})), "rope_scaling"),
        (config("global_rope_theta", 0.into()), "rope_theta is \"0\""),
        (config("local_attention", 0.into()), "local_attention is 0"),
        (config("global_attn_every_n_layers", 0.into()), "global_attn_every_n_layers is 0"),
        (config("num_attention_heads", 32.into()), "columns turn in pairs"),
        (config("max_position_embeddings", 1_000_000_000.into()), "max_position_embeddings is 1000000000"),
        (config("hidden_activation", "mish".into()), "hidden_activation is \"mish\""),
    ];
    for (copy, expected) in cases {
        assert!(copy.refusal().contains(expected), "wanted {expected:?}: {}", copy.refusal());
    }
}

#[test]
fn optional_files_and_newer_spellings() {
    let bare = Copy::new()
        .without("sentence_bert_config.json")
        .without("tokenizer_config.json")
        .without("config_sentence_transformers.json");
    assert_eq!(bare.open().unwrap().max_tokens, 64);
    // transformers writes "no limit" as 1e30.
    assert_eq!(Copy::new().without("sentence_bert_config.json").open().unwrap().max_tokens, 64);
    let limited = Copy::new().without("sentence_bert_config.json").set(
        "tokenizer_config.json",
        "model_max_length",
        20.into(),
    );
    assert_eq!(limited.open().unwrap().max_tokens, 20);

    let newer = Copy::new().edit("1_Pooling/config.json", |pooling| {
        *pooling = json!({"embedding_dimension": 32, "pooling_mode": ["lasttoken", "cls"], "include_prompt": true});
    });
    let model = newer.open().unwrap();
    assert_eq!(
        (model.pooling.modes.as_slice(), model.dim()),
        (&[PoolMode::LastToken, PoolMode::Cls][..], 64)
    );
    let raw = Copy::new().edit("modules.json", |modules| {
        modules.as_array_mut().unwrap().pop();
    });
    assert!(!raw.open().unwrap().normalize);
}

#[test]
fn prompts_by_role() {
    let prompts = |value: Value| {
        Copy::new().edit("config_sentence_transformers.json", |json| *json = value).open().unwrap().prompts
    };
    let both =
        prompts(json!({"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "passage"}));
    assert_eq!((both.query(), both.document(), both.default_prompt()), ("q: ", "p: ", "p: "));
    let null = prompts(json!({"prompts": {"query": null, "document": "d "}}));
    assert_eq!((null.query(), null.document(), null.default_prompt()), ("", "d ", ""));
}

#[test]
fn texts_are_prepared_as_sentence_transformers_does() {
    let plain = Copy::new().open().unwrap();
    // The separators \x1c to \x1f are white space to Python alone, U+200B to neither.
    assert_eq!(plain.prepare("\u{1f}\t\u{a0} The Sea\u{3000}\r\n\u{1c}"), "The Sea");
    assert_eq!(plain.prepare("\u{200b}x "), "\u{200b}x");
    let lower = Copy::new().set("sentence_bert_config.json", "do_lower_case", true.into()).open().unwrap();
    assert_eq!(lower.prepare(" ÅNGSTRÖM ΟΔΟΣ "), "ångström οδος");
}

#[test]
fn identity_is_the_files_and_nothing_else() {
    let copy = Copy::new();
    let taken = |copy: &Copy| identity(&copy.open().unwrap()).unwrap();
    let first = taken(&copy);
    assert_eq!(
        first,
        identity(&ModelDir::open(&tiny_dir()).unwrap()).unwrap(),
        "the folder's name has no part"
    );
    let names: Vec<_> = first.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    for file in &first.files {
        assert_eq!(file.bytes, std::fs::metadata(copy.path().join(&file.name)).unwrap().len());
    }
    std::fs::write(copy.path().join("README.md"), "words").unwrap();
    assert_eq!(taken(&copy), first);

    let other = copy.set("1_Pooling/config.json", "pooling_mode_max_tokens", true.into());
    assert_ne!(taken(&other).sha256, first.sha256);
    let mut weights = std::fs::read(other.path().join("model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    let before = taken(&other).sha256;
    std::fs::write(other.path().join("model.safetensors"), weights).unwrap();
    assert_ne!(taken(&other).sha256, before);
}

/// The heads have a part in the vectors where they are there, and so has the one weights file that is read.
#[test]
fn identity_holds_heads_and_the_weights_that_are_read() {
    let names = |copy: &Copy| {
        let files = identity(&copy.open().unwrap()).unwrap().files;
        files.into_iter().map(|file| file.name).collect::<Vec<_>>()
    };
    let both = names(&Copy::of("tiny-xlmr"));
    assert!(both.contains(&"model.safetensors".into()) && !both.contains(&"pytorch_model.bin".into()));
    assert!(both.contains(&"sparse_linear.pt".into()) && both.contains(&"colbert_linear.pt".into()));
    let torch = names(&Copy::of("tiny-xlmr").without("model.safetensors").without("sparse_linear.pt"));
    assert!(torch.contains(&"pytorch_model.bin".into()) && !torch.contains(&"sparse_linear.pt".into()));
}

/// An empty file has the SHA-256 that everybody knows, which proves the digest and its spelling.
#[test]
fn digests_are_those_of_sha256sum() {
    let copy = Copy::new();
    let model = copy.open().unwrap();
    let path: PathBuf = copy.path().join("config.json");
    std::fs::write(path, "").unwrap();
    let taken = identity(&model).unwrap();
    let config = taken.files.iter().find(|file| file.name == "config.json").unwrap();
    assert_eq!(config.sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
