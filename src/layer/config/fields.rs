//! Reads the fields of a config and keeps account of them: what no reader asked for is looked at in the end.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::OP;
use super::harmless::is_harmless;
use crate::{DType, Error, Result};

/// One JSON object. A field that is null is absent.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where the object stands in the config, for messages: `text_config.`.
    path: String,
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub fn new(object: &'a Map<String, Value>, path: &str) -> Self {
        Fields { object, path: path.into(), seen: RefCell::default() }
    }

    /// The field, marked as understood.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(name.into());
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Marks fields that change nothing here.
    pub fn skip(&self, names: &[&str]) {
        self.seen.borrow_mut().extend(names.iter().map(|name| name.to_string()));
    }

    fn typed<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(name, what, value))
    }

    /// An error that names the field, what it should be and what it is.
    pub fn wrong(&self, name: &str, expected: &str, got: impl std::fmt::Display) -> Error {
        let mut got = got.to_string();
        if let Some((end, _)) = got.char_indices().nth(80) {
            got.truncate(end);
        }
        Error::invalid(OP, "config", format!("{}{name} to be {expected}", self.path), got)
    }

    /// An error that names the field whose value nothing here does.
    pub fn unsupported(&self, name: &str, value: impl std::fmt::Display, supported: &str) -> Error {
        Error::unsupported(OP, format!("{}{name} = {value}", self.path), supported)
    }

    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "given", "nothing"))
    }

    pub fn f64_if(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub fn f64(&self, name: &str) -> Result<f64> {
        self.required(name, self.f64_if(name)?)
    }

    pub fn usize_if(&self, name: &str) -> Result<Option<usize>> {
        // Counts above 2^31 are no model's.
        let read = |v: &Value| v.as_u64().and_then(|n| i32::try_from(n).ok()).map(|n| n as usize);
        self.typed(name, "a whole number", read)
    }

    pub fn usize(&self, name: &str) -> Result<usize> {
        self.required(name, self.usize_if(name)?)
    }

    /// A window or a chunk: at least one slot.
    pub fn slots_if(&self, name: &str) -> Result<Option<i32>> {
        let slots = self.usize_if(name)?;
        match slots {
            Some(0) => Err(self.wrong(name, "1 or more", 0)),
            slots => Ok(slots.map(|n| n as i32)),
        }
    }

    pub fn bool_if(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub fn str_if(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    pub fn usizes_if(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let read = |v: &'a Value| v.as_array()?.iter().map(|v| v.as_u64().map(|n| n as usize)).collect();
        self.typed(name, "a list of whole numbers", read)
    }

    pub fn f64s_if(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.typed(name, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    pub fn strs_if(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(name, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub fn object_if(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let object = self.typed(name, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields::new(object, &format!("{}{name}.", self.path))))
    }

    /// Storage of activations: `dtype`, in older configs `torch_dtype`; f32 if neither says.
    pub fn dtype(&self) -> Result<Option<DType>> {
        let (new, old) = (self.str_if("dtype")?, self.str_if("torch_dtype")?);
        match new.or(old) {
            None => Ok(None),
            Some("float32") => Ok(Some(DType::F32)),
            Some("float16") => Ok(Some(DType::F16)),
            Some("bfloat16") => Ok(Some(DType::BF16)),
            Some(other) => Err(self.unsupported("dtype", other, "float32, float16 and bfloat16")),
        }
    }

    /// Refuses a field that may only have one value here: another one changes what the layers compute.
    pub fn expect(&self, name: &str, allowed: Value) -> Result<()> {
        match self.get(name) {
            Some(value) if *value != allowed => {
                Err(self.unsupported(name, value, &format!("{allowed}, or no such field")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses fields that nobody read and whose names speak of attention: they may change what the layers compute.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that names the field.
    pub fn finish(&self) -> Result<()> {
        let seen = self.seen.borrow();
        let unread = |(name, value): &(&String, &Value)| !seen.contains(*name) && !value.is_null();
        match self.object.iter().filter(unread).find(|(name, _)| !is_harmless(name)) {
            None => Ok(()),
            Some((name, value)) => {
                let supported = "fields that this family is known to have; an unknown one may change the attention";
                Err(self.unsupported(name, value, supported))
            }
        }
    }

    /// As [`Fields::finish`], for objects in which every field counts.
    pub fn finish_strictly(&self) -> Result<()> {
        let seen = self.seen.borrow();
        match self.object.iter().find(|(name, value)| !seen.contains(*name) && !value.is_null()) {
            None => Ok(()),
            Some((name, value)) => Err(self.unsupported(name, value, "the fields that this scheme is known to have")),
        }
    }
}
