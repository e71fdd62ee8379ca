namespace FramePin.Conformance.Scripts;

/// <summary>Steps that a script must not make.</summary>
public sealed partial class Generator
{
    /// <summary>
    /// True for a step that would reach the executor's own code and stack, or the kernel's pages (vvar counts time).
    /// </summary>
    private bool Endangers(Step step)
    {
        if (step.Kind is StepKind.MlockAll or StepKind.Brk or StepKind.Truncate or StepKind.PunchHole
            or StepKind.FileWrite
            or StepKind.FileRead or StepKind.Seal or StepKind.Limit or StepKind.Mdwe or StepKind.RegisteredRead
                or StepKind.RegisteredWrite)
            return false;
        return Hits(step.A, Math.Max(step.B, Page))
            || (step.Kind == StepKind.Mremap && Hits(step.E, Math.Max(step.C, Page)));
    }

    private bool Hits(ulong address, ulong length) =>
        address != 0 && initial.Mappings.Any(mapping => address < mapping.End && mapping.Start < address + length);
}
