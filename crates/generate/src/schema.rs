//! Answers against their JSON schema, whoever promised to keep to it: an engine's grammar may know less than the schema
//! says, and a server may ignore it.

use serde_json::Value;

/// A JSON schema, compiled. References to other documents are not fetched; they are errors.
pub struct Schema {
    validator: jsonschema::Validator,
}

/// The schema is none.
#[derive(Debug, thiserror::Error)]
#[error("the JSON schema at {place:?}: {why}")]
pub struct SchemaError {
    place: String,
    why: String,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// It is none, or refers to another document.
    pub fn parse(schema: &Value) -> Result<Self, SchemaError> {
        jsonschema::validator_for(schema)
            .map(|validator| Self { validator })
            .map_err(|error| SchemaError { place: error.instance_path().to_string(), why: error.to_string() })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong, in one line: no JSON, or where it differs from the schema. It quotes the answer, however long.
    pub fn check(&self, answer: &str) -> Result<Value, String> {
        let value = serde_json::from_str(answer).map_err(|error| format!("no JSON ({error}): {answer:?}"))?;
        match self.validator.validate(&value) {
            Ok(()) => Ok(value),
            Err(error) => Err(format!("at {:?}: {error}", error.instance_path().to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_held_against_every_word_of_a_schema() {
        let schema = Schema::parse(&json!({
            "type": "object",
            "required": ["at"],
            "properties": {"at": {"type": "integer", "minimum": 1}, "value": {"type": "string", "pattern": "^[0-9.]+%$"}},
            "additionalProperties": false,
        }))
        .unwrap();
        assert_eq!(schema.check(r#"{"at":3,"value":"2.5%"}"#).unwrap(), json!({"at": 3, "value": "2.5%"}));
        for (answer, wrong) in [
            (r#"{"at":0}"#, "\"/at\""),
            (r#"{"at":1,"value":"2.5"}"#, "\"/value\""),
            (r#"{"value":"1%"}"#, "\"at\""),
            (r#"{"at":1,"more":2}"#, "more"),
            (r#"{"at":1"#, "no JSON"),
            ("", "no JSON"),
            ("null", "null"),
        ] {
            let error = schema.check(answer).unwrap_err();
            assert!(error.contains(wrong), "{answer}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_schema_that_is_none_or_lies_elsewhere_is_refused() {
        assert!(Schema::parse(&json!({"type": "objekt"})).is_err());
        let elsewhere = json!({"$ref": "https://example.org/schema.json"});
        assert!(Schema::parse(&elsewhere).is_err());
    }
}
