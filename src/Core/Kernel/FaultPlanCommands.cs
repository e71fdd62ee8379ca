using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>Adds a rule to the machine's fault plan.</summary>
public readonly record struct AddFaultRuleCall(FaultRule Rule) : ISyscall<AddFaultRuleCall>
{
    public SyscallResult Run(in Turn turn)
    {
        turn.Kernel.Plan.Add(Rule);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer)
    {
        writer.Add((int)Rule.Point).Add((int)Rule.Action).Add(Rule.Space).Add(Rule.Skip).Add(Rule.Times);
        writer.Add(Rule.Range is not null).Add(Rule.Range ?? default);
    }

    public static AddFaultRuleCall Read(ref CommandReader reader)
    {
        var rule = new FaultRule
        {
            Point = (ChoicePoint)reader.I32(),
            Action = (FaultAction)reader.I32(),
            Space = reader.Text(),
            Skip = reader.I32(),
            Times = reader.I32(),
        };
        var hasRange = reader.Bool();
        var range = reader.Range();
        return new AddFaultRuleCall(hasRange ? rule with { Range = range } : rule);
    }
}

/// <summary>Empties the machine's fault plan.</summary>
public readonly record struct ClearFaultPlanCall : ISyscall<ClearFaultPlanCall>
{
    public SyscallResult Run(in Turn turn)
    {
        turn.Kernel.Plan.Clear();
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => ArgumentNullException.ThrowIfNull(writer);

    public static ClearFaultPlanCall Read(ref CommandReader reader) => default;
}
