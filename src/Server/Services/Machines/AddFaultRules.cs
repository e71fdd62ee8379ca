using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using FaultRule = FramePin.Core.Kernel.FaultRule;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    /// <summary>Adds to the machine's fault plan (Core/Kernel/FaultPlan.cs).</summary>
    public override Task<AddFaultRulesResponse> AddFaultRules(AddFaultRulesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Machine, Right.Manage, "machine");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var most = options.Limits.FaultRulesMax;
            if (request.Rules.Count > most)
                throw Refusals.Limit("fault_rules_max", (ulong)most, (ulong)request.Rules.Count);
            var rules = request.Rules.Select(rule => ToRule(host, rule)).ToList();
            foreach (var rule in rules) host.Machine.Call(new AddFaultRuleCall(rule));
            return Task.FromResult(new AddFaultRulesResponse());
        });
    }

    private static FaultRule ToRule(MachineHost host, V1.FaultRule rule)
    {
        var point = WireEnums.ToCore(rule.Point, "rules.point");
        var action = WireEnums.ToCore(rule.Action, "rules.action");
        if (rule.End < rule.Start) throw Refusals.Bad("rules.end", "must not lie before start");
        return new FaultRule
        {
            Point = point,
            Action = action,
            Space = rule.AddressSpace.Length == 0 ? null : host.Spaces.Get(rule.AddressSpace, "rules.address_space").Id,
            Range = rule.End == 0 ? null : new AddressRange(rule.Start, rule.End),
            Skip = (int)Math.Min(rule.Skip, int.MaxValue),
            Times = rule.Times == 0 ? 1 : (int)Math.Min(rule.Times, int.MaxValue),
        };
    }
}
