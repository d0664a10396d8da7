package report

// text is the words of a report in one language.
type text struct {
	lang string
	at   int // in phrases
}

func texts(lang string) *text {
	if lang == "zh" {
		return &text{lang: "zh", at: 1}
	}
	return &text{lang: "en"}
}

// S returns a phrase.
func (t *text) S(key string) string {
	p, known := phrases()[key]
	if !known {
		return key
	}
	return p[t.at]
}

// Yes returns the word for yes or no.
func (t *text) Yes(b bool) string {
	if b {
		return t.S("yes")
	}
	return t.S("no")
}

func (t *text) csvKind(kind string) string { return t.S("kind." + kind) }

// phrases are all words of the report: English, Chinese.
func phrases() map[string][2]string { //nolint:funlen // a table
	return map[string][2]string{
		"yes": {"yes", "是"}, "no": {"no", "否"},
		"kind.indicator": {"indicator", "指标"}, "kind.machine": {"machine", "设备"}, "kind.device": {"device", "采集设备"},

		"title":     {"Equipment connectivity report", "设备联网率报告"},
		"gateway":   {"Gateway", "网关"},
		"group":     {"Group", "分组"},
		"period":    {"Period", "统计周期"},
		"counted":   {"Counted up to", "统计截至"},
		"made":      {"Made", "生成时间"},
		"timezone":  {"Time zone", "时区"},
		"ledger":    {"Equipment ledger", "设备台账"},
		"noledger":  {"There is no equipment ledger: each configured device counts as one machine, all of them digital. The rates by equipment are those of the connected devices, not those of the site. Add equipment: FILE to the configuration (millrace report --template writes an empty one).", "未提供设备台账：每个已配置的采集设备按一台数字化设备计。以下按设备计算的比率只反映已接入的设备，不代表全厂。请在配置中增加 equipment: 文件（millrace report --template 可生成空白台账）。"},
		"figures":   {"Figures", "指标"},
		"indicator": {"Indicator", "指标"},
		"formula":   {"Definition", "计算公式"},
		"num":       {"Numerator", "分子"},
		"den":       {"Denominator", "分母"},
		"rate":      {"Rate", "比率"},
		"points":    {"Points", "得分"},
		"family":    {"Source", "口径来源"},

		"ind.equipment_digitalisation":     {"Equipment digitalisation rate", "生产设备数字化率"},
		"ind.equipment_networking":         {"Equipment networking rate", "生产设备联网率"},
		"ind.digital_equipment_networking": {"Networking rate of digital equipment", "数字化生产设备联网率"},
		"ind.key_equipment_networking":     {"Key equipment networking rate", "关键设备联网率"},
		"ind.key_process_collection":       {"Key process data collection rate", "关键工序数据采集率"},
		"ind.availability":                 {"Availability", "设备在线率"},
		"ind.read_rate":                    {"Collection rate", "实采率"},
		"ind.valid_rate":                   {"Valid rate", "有效率"},
		"ind.delivery_rate":                {"Delivery rate", "送达率"},

		"def.equipment_digitalisation":     {"digital machines ÷ all machines", "数字化生产设备数 ÷ 生产设备总数"},
		"def.equipment_networking":         {"networked machines ÷ all machines", "联网生产设备数 ÷ 生产设备总数"},
		"def.digital_equipment_networking": {"networked digital machines ÷ digital machines", "联网的数字化设备数 ÷ 数字化生产设备数"},
		"def.key_equipment_networking":     {"networked key machines ÷ all key machines", "联网的关键设备数 ÷ 关键设备总数"},
		"def.key_process_collection":       {"key processes with a networked machine ÷ all key processes", "有联网设备的关键工序数 ÷ 关键工序总数"},
		"def.availability":                 {"planned time in which the devices answered ÷ planned time of all devices (s)", "计划时间内采集设备有应答的时长 ÷ 全部采集设备的计划时长（秒）"},
		"def.read_rate":                    {"readings collected ÷ readings due", "实采数 ÷ 应采数"},
		"def.valid_rate":                   {"valid readings ÷ readings collected", "有效数 ÷ 实采数"},
		"def.delivery_rate":                {"readings delivered ÷ valid readings that were to be delivered", "送达数 ÷ 应送的有效数"},

		"fam.equipment_digitalisation":     {"MIIT indicators for small and medium enterprises, 2024 edition", "中小企业数字化水平评测指标（2024年版）"},
		"fam.equipment_networking":         {"MIIT indicators for small and medium enterprises, 2024 edition", "中小企业数字化水平评测指标（2024年版）"},
		"fam.digital_equipment_networking": {"older family (GB/T 23020)", "较早口径（GB/T 23020，两化融合）"},
		"fam.key_equipment_networking":     {"smart factory tiers", "智能工厂梯度培育"},
		"fam.key_process_collection":       {"smart factory tiers", "智能工厂梯度培育"},
		"fam.availability":                 {"Millrace", "Millrace 自定义"},
		"fam.read_rate":                    {"Millrace", "Millrace 自定义"},
		"fam.valid_rate":                   {"Millrace", "Millrace 自定义"},
		"fam.delivery_rate":                {"Millrace", "Millrace 自定义"},

		"rule":      {"When is a machine networked?", "“联网”的判定规则"},
		"rule.text": {"A machine counts as networked if data of it was delivered to the platform in at least %s of the planned production time of the period (by whole hours)%s. No published text fixes such a rule; this one is the gateway's configuration (connectivity.networked).", "统计周期内，设备的数据送达平台的小时数不少于计划生产时间的 %s（按整小时计）%s，即判定为联网。现行文件未规定该判定标准，本规则取自网关配置（connectivity.networked）。"},
		"rule.part": {"; an hour counts if at least %s of its readings was delivered", "；每小时送达的数据不少于应送数据的 %s 才计入"},
		"calendar":  {"Planned production time", "计划生产时间"},
		"planned":   {"planned up to now:", "周期内已计划："},
		"unplanned": {"Nothing was planned in this period: all of its time counts as planned.", "该周期内没有计划生产时间，全部时间按计划时间计。"},
		"uplink":    {"Delivered means acknowledged by the broker of uplink", "“送达”指以下上行链路的服务器已确认"},
		"bands":     {"Points of the first two (2024): up to 10 % 0, up to 20 % 1.5, up to 40 % 3, up to 60 % 4.5, above 60 % 6.", "前两项得分（2024年版）：≤10% 得 0 分，≤20% 得 1.5 分，≤40% 得 3 分，≤60% 得 4.5 分，＞60% 得 6 分。"},
		"parts":     {"Of an hour that is planned in part, its figures count by that part. Rates of readings are of the whole period, planned or not. Where only changes are sent, what has not changed is not to be delivered.", "仅部分时间有计划的小时按比例计入。数据类比率统计整个周期（不论是否计划生产）。只上送变化的测点，未变化的读数不计入应送。"},

		"weak":         {"What to know of these figures", "数据说明"},
		"weak.zone":    {"Counts are kept by hours of UTC. In this time zone days and shifts do not begin with one: they are taken to begin up to 45 minutes earlier.", "统计数据按 UTC 整点小时保存，本时区的日界与班次不在整点：按最多提前 45 分钟计。"},
		"weak.until":   {"The period is not over: these are the figures up to %s.", "统计周期尚未结束：以下为截至 %s 的数据。"},
		"weak.began":   {"Counting began on %s: before, nothing is known.", "自 %s 起开始统计，此前没有数据。"},
		"weak.stopped": {"The gateway's agent was stopped from %s to %s (%s).", "网关程序于 %s 至 %s 停止运行（%s）。"},
		"weak.killed":  {"The gateway's agent ended without a word after %s and ran again from %s on (%s): what happened in the last minute before is not counted.", "网关程序在 %s 之后异常终止，于 %s 恢复运行（%s）：终止前最后一分钟的数据未计入。"},
		"weak.more":    {"… and %d more such times.", "……另有 %d 次。"},
		"weak.waiting": {"%s readings have not been acknowledged: they wait for the uplink and may still be delivered, or a crash took them (a kill: acknowledgements of its last minute; a power cut: what was not written yet).", "有 %s 个读数尚未得到确认：可能在等待上送，之后仍会送达；也可能因异常停止而缺失（进程被终止：最后一分钟的确认记录；断电：尚未写入的数据）。"},
		"weak.dropped": {"%s readings will never be delivered (%s).", "有 %s 个读数已确定丢失（%s）。"},
		"weak.none":    {"Nothing is missing from the count.", "统计数据完整。"},

		"over":       {"Networking rate over time", "联网率趋势"},
		"over.what":  {"Machines of which data was delivered as the rule says, by day (or hour); grey: nothing was planned.", "按天（或小时）统计的联网设备占比；灰色：无生产计划。"},
		"heat":       {"Availability of the devices", "采集设备在线热力图"},
		"heat.what":  {"The part of each day (or hour) in which the device answered.", "每天（或每小时）内设备有应答的时间占比。"},
		"heat.all":   {"all of it", "全部"},
		"heat.none":  {"none", "无"},
		"heat.gone":  {"not observed", "未观测"},
		"outages":    {"Outages", "离线时段"},
		"outages.no": {"There were none.", "统计周期内无离线。"},
		"outage.top": {"The devices that were away longest:", "离线时间最长的设备："},

		"lists":     {"The lists behind the figures", "指标明细"},
		"list.in":   {"counted", "计入"},
		"list.out":  {"not counted", "未计入"},
		"machines":  {"Equipment", "设备台账"},
		"asset":     {"Asset", "资产编号"},
		"name":      {"Name", "设备名称"},
		"workshop":  {"Workshop", "车间"},
		"process":   {"Process", "工序"},
		"key":       {"Key", "关键设备"},
		"keyproc":   {"Key process", "关键工序"},
		"digital":   {"Digital", "数字化"},
		"networked": {"Networked", "联网"},
		"share":     {"Time with data", "有数据时间占比"},
		"maker":     {"Maker", "制造商"},
		"model":     {"Model", "型号"},
		"serial":    {"Serial number", "出厂编号"},
		"product":   {"Order code", "订货号"},
		"software":  {"Answered by", "应答软件"},
		"devices":   {"Devices", "采集设备"},
		"note":      {"the ledger says “%s”, the device itself “%s”", "台账为“%s”，设备自身上报为“%s”"},

		"evidence":  {"Evidence by device", "单台采集设备证明材料"},
		"device":    {"Device", "采集设备"},
		"protocol":  {"Protocol", "协议"},
		"address":   {"Address", "地址"},
		"unit":      {"unit", "站号"},
		"assets":    {"Equipment", "所属设备"},
		"first":     {"First data", "首次数据"},
		"last":      {"Last data", "最近数据"},
		"firmware":  {"Version", "版本"},
		"state":     {"State", "当前状态"},
		"tags":      {"Tags", "测点数"},
		"expected":  {"Due", "应采"},
		"read":      {"Collected", "实采"},
		"good":      {"Valid", "有效"},
		"due":       {"To deliver", "应送"},
		"delivered": {"Delivered", "送达"},
		"dropped":   {"Lost", "丢弃"},
		"answer":    {"Answer time", "响应时间"},
		"available": {"Availability", "在线率"},
		"samples":   {"Sample values", "数据样例"},
		"tag":       {"Tag", "测点"},
		"value":     {"Value", "值"},
		"time":      {"Time", "时间"},
		"from":      {"From", "开始"},
		"to":        {"To", "结束"},
		"length":    {"Duration", "时长"},
		"reason":    {"Reason", "原因"},
		"goeson":    {"goes on", "持续中"},
		"cut":       {"until the agent ended", "至网关程序终止"},
		"noreason":  {"no answer", "无应答"},
		"times":     {"times", "次"},
		"reconnect": {"Reconnects", "重连次数"},
		"foot":      {"Made by Millrace from the gateway's completeness ledger. Each rate is its numerator by its denominator; the figures of several gateways add up by equipment number.", "由 Millrace 根据网关完整性台账生成。各比率均为分子除以分母，多个网关的结果可按资产编号汇总。"},

		"online": {"online", "在线"}, "degraded": {"degraded", "降级"}, "offline": {"offline", "离线"}, "disabled": {"disabled", "停用"},

		"drop.buffer_full": {"buffer full", "缓存已满"}, "drop.too_old": {"too old", "超期"}, "drop.damaged": {"damaged file", "文件损坏"},
		"drop.disk_error": {"disk error", "磁盘故障"}, "drop.crash": {"crash", "程序崩溃"}, "drop.refused": {"refused by the broker", "服务器拒收"}, "drop.other": {"other", "其他"},

		"sheet.indicators": {"Indicators", "指标"}, "sheet.equipment": {"Equipment", "设备台账"}, "sheet.processes": {"Processes", "工序"},
		"sheet.devices": {"Devices", "采集设备"}, "sheet.series": {"Over time", "趋势"}, "sheet.outages": {"Outages", "离线时段"}, "sheet.definitions": {"Definitions", "说明"},
		"planned_s": {"Planned (s)", "计划时间（秒）"}, "delivered_s": {"Time with data (s)", "有数据时间（秒）"}, "answering_s": {"Answering (s)", "应答时间（秒）"},
		"machines_n": {"Machines", "设备数"}, "networked_n": {"Networked", "联网数"}, "collected": {"Collected", "已采集"}, "min_share": {"Least part of the planned time", "最低时间占比"},
		"hint.xlsx": {"The rates are formulas over the other sheets: correct a yes or no there, and they follow.", "各比率为公式，引用其他工作表：在“设备台账”中修改“是/否”，比率随之更新。"},
	}
}
