;; RUN: run --dir no-such-folder::/data %s
(module (func (export "_start")))
