using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Machines, their audit and their fault plan.</summary>
internal sealed class MachineService(MachineRegistry machines, DaemonOptions options)
    : V1.MachineService.MachineServiceBase
{
    public override Task<Machine> CreateMachine(CreateMachineRequest request, ServerCallContext context) =>
        machines.Requests.Run(context, request.RequestId, request, () =>
        {
            var wanted = WireMapping.ToOptions(request.Spec);
            return Task.FromResult(WireMapping.ToWire(machines.Create(request.MachineId, wanted, request.Spec)));
        });

    public override Task<Machine> GetMachine(GetMachineRequest request, ServerCallContext context) =>
        Task.FromResult(WireMapping.ToWire(machines.Get(Names.MachineId(request.Name, "name"))));

    public override Task<ListMachinesResponse> ListMachines(ListMachinesRequest request, ServerCallContext context)
    {
        var (page, next) = Paging.ByName(
            machines.All, host => host.Id, new PageRequest(Names.Machines, request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListMachinesResponse { NextPageToken = next };
        response.Machines.Add(page.Select(WireMapping.ToWire));
        return Task.FromResult(response);
    }

    public override Task<DeleteMachineResponse> DeleteMachine(
        DeleteMachineRequest request, ServerCallContext context) =>
        machines.Requests.Run(context, request.RequestId, request, () =>
        {
            machines.Delete(Names.MachineId(request.Name, "name"), request.Force);
            return Task.FromResult(new DeleteMachineResponse());
        });

    public override Task<AuditMachineResponse> AuditMachine(AuditMachineRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Name, "name"));
        var response = new AuditMachineResponse { Digest = host.Machine.Digest() };
        response.Findings.Add(host.Machine.Audit());
        return Task.FromResult(response);
    }

    public override Task<AddFaultRulesResponse> AddFaultRules(AddFaultRulesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Machine, "machine"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var most = options.Limits.FaultRulesMax;
            if (request.Rules.Count > most)
                throw Refusals.Limit("fault_rules_max", (ulong)most, (ulong)request.Rules.Count);
            var rules = request.Rules.Select(rule => ToRule(host, rule)).ToList();
            foreach (var rule in rules) host.Machine.AddFaultRule(rule);
            return Task.FromResult(new AddFaultRulesResponse());
        });
    }

    public override Task<ClearFaultRulesResponse> ClearFaultRules(
        ClearFaultRulesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Machine, "machine"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            host.Machine.ClearFaultPlan();
            return Task.FromResult(new ClearFaultRulesResponse());
        });
    }

    private Core.Kernel.FaultRule ToRule(MachineHost host, V1.FaultRule rule)
    {
        var point = WireEnums.ToCore(rule.Point, "rules.point");
        var action = WireEnums.ToCore(rule.Action, "rules.action");
        if (rule.End < rule.Start) throw Refusals.Bad("rules.end", "must not lie before start");
        string? space = null;
        if (rule.AddressSpace.Length > 0)
        {
            var (owner, id) = machines.Resolve(rule.AddressSpace, Names.AddressSpaces, "rules.address_space");
            if (owner != host) throw Refusals.Bad("rules.address_space", "belongs to another machine");
            space = host.Spaces.Get(id).Name;
        }

        return new Core.Kernel.FaultRule
        {
            Point = point,
            Action = action,
            Space = space,
            Range = rule.End == 0 ? null : new AddressRange(rule.Start, rule.End),
            Skip = (int)Math.Min(rule.Skip, int.MaxValue),
            Times = rule.Times == 0 ? 1 : (int)Math.Min(rule.Times, int.MaxValue),
        };
    }
}
