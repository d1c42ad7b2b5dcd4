;; RUN: run --dir ::/data %s
(module (func (export "_start")))
