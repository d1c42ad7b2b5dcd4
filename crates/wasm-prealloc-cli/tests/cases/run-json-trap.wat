;; RUN: run --json %s
(module (func (export "_start") unreachable))
